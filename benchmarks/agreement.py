"""How near a quantised model stays to the float model: KL divergence and agreement of the top token, token by token."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.bundle import Bundle
from bmqwen.cache import cache_folder
from bmqwen.convert import convert
from bmqwen.progress import Progress
from bmqwen.quant.precision import Precision
from bmqwen.runtime.ort import OrtRuntime
from bmqwen.storage import storage_errors

# Rows of logits held at once: 64 rows of a vocabulary of 152,000 are 39 MB.
_ROWS = 64
FLOAT = Precision.choose("f32")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two models on one text.

    Attributes:
        tokens: how many positions were compared.
        mean_kl: mean of KL(float model || quantised model), in nats.
        p99_kl: its 99th percentile.
        top1: share of the positions at which both find the same token the most likely one.
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    top1: float

    @classmethod
    def of(cls, pairs: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> "Agreement":
        """From logits [rows, vocabulary] of the float and of the quantised model, in pieces."""
        divergences, same = [], []
        for reference, other in pairs:
            p, q = _log_softmax(reference), _log_softmax(other)
            divergences.append((np.exp(p) * (p - q)).sum(axis=1))
            same.append(p.argmax(axis=1) == q.argmax(axis=1))
        kl = np.concatenate(divergences)
        return cls(
            len(kl), float(kl.mean()), float(np.quantile(kl, 0.99)), float(np.concatenate(same).mean())
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_grids(
    source: Path,
    grids: Mapping[str, Bundle | Path],
    texts: Mapping[str, Sequence[int]],
    *,
    threads: int,
    progress: Progress,
    step: Callable[[str], None] = lambda _text: None,
) -> dict[str, dict[str, Agreement]]:
    """Agreement with `source` dequantised to float32, by grid and text.

    Args:
        source: the checkpoint that all grids were made from.
        grids: by their labels: a bundle, which is run as it is, or a GGUF file, which is dequantised to float32 first,
            so that only its weights are rounded.
        texts: token ids by name.
        threads: for the CPU engine.
        progress, step: are told what is done.

    Raises what `convert` raises; StorageError if the logits of the float model (4 bytes a vocabulary entry and token)
    do not fit on the disk.
    """
    folder = cache_folder("benchmarks")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder, prefix=".agreement-")
    with place:
        scratch = Path(place.name)
        step("float32")
        reference = _logits_on_disk(_float_bundle(source, scratch, progress), texts, threads, scratch)
        results = {}
        for label, grid in grids.items():
            step(label)
            bundle = grid if isinstance(grid, Bundle) else _float_bundle(grid, scratch, progress)
            results[label] = {
                name: Agreement.of(zip(_pieces(reference[name]), _logits(bundle, ids, threads), strict=True))
                for name, ids in texts.items()
            }
        return results


def markdown(results: Mapping[str, Mapping[str, Agreement]]) -> str:
    """A row for each grid: mean KL, its 99th percentile and top-1 agreement on each text."""
    names = list(next(iter(results.values())))
    head = ["KL to the float model, mean (99th percentile); same top token", *names]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in results.items():
        cells = [f"{row[name].mean_kl:.4f} ({row[name].p99_kl:.2f}); {row[name].top1:.1%}" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _float_bundle(source: Path, scratch: Path, progress: Progress) -> Bundle:
    # One place for all of them, one after the other: a float bundle of a large model fills a disk.
    return convert(str(source), scratch / "float", FLOAT, replace=True, offline=True, progress=progress)


def _logits_on_disk(
    bundle: Bundle, texts: Mapping[str, Sequence[int]], threads: int, scratch: Path
) -> dict[str, NDArray[np.float32]]:
    stored: dict[str, NDArray[np.float32]] = {}
    for name, ids in texts.items():
        shape = (len(ids), bundle.config.vocab_size)
        rows = np.lib.format.open_memmap(scratch / f"{name}.npy", "w+", np.dtype(np.float32), shape)
        for start, piece in zip(range(0, len(ids), _ROWS), _logits(bundle, ids, threads), strict=True):
            rows[start : start + _ROWS] = piece
        stored[name] = rows
    return stored


def _pieces(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _logits(bundle: Bundle, ids: Sequence[int], threads: int) -> Iterator[NDArray[np.float32]]:
    """Logits [rows, vocabulary] after each token, in pieces of _ROWS; a piece is valid until the next."""
    runtime = OrtRuntime(bundle, threads=threads)
    try:
        for start in range(0, len(ids), _ROWS):
            yield runtime.feed(ids[start : start + _ROWS], every_row=True).logits()
    finally:
        runtime.close()


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values
