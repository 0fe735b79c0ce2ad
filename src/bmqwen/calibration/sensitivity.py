"""What rounding each part of a model does to its predictions: one part in one format at a time, all in one pass."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bmqwen.calibration.rotation import HEAD, NORM, TABLE
from bmqwen.emit.numpy import NumpyOps, Rows
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CheckpointError, InputError
from bmqwen.model.architecture import block_prefix
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat, make_format
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import PROJECTIONS, Format, Precision
from bmqwen.util.kept_work import work_folder
from bmqwen.util.progress import Progress
from bmqwen.util.storage import path_lock, require_free, storage_errors, write_file
from bmqwen.weights.checkpoint import Checkpoint
from bmqwen.weights.gptq_writer import write_safetensors
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.weights import Weights

# What a part can be stored as, from the least bytes on, as `Precision.projections` has it.
FORMATS: Mapping[str, tuple[Format, int]] = {
    "int4:128": ("int4", 128),
    "int4:64": ("int4", 64),
    "int4:32": ("int4", 32),
    "int8": ("int8", 64),
}
# Layers are compared in this one.
USUAL = "int4:64"
PARTS = (*PROJECTIONS, "lm_head")
# Tokens that each part is measured on, in pieces from all over the calibration text; every other one's prediction is
# compared. Layers are measured on the first pieces only.
PIECES, PIECE, EVERY, LAYER_PIECES = 8, 64, 2, 2
# Raised when the method changes, so that what an older one kept is not taken.
REVISION = 1
_VOCABULARY_ROWS = 16384
_STREAMS, _RESULT = "streams.safetensors", "sensitivity.json"
# What is rounded: a part in a format, a layer, nothing.
_What = tuple[str, str] | int | None
# Mean KL in each piece of text, nats a token.
Losses = Sequence[float]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """KL to the float model in nats a token, with one thing rounded to nearest, and the rest not.

    Attributes:
        parts: by part and format, for each piece of text; only formats whose groups divide the matrices.
        layers: with all projections of one layer in `USUAL`, or the next finer format that fits, on fewer pieces.
    """

    parts: Mapping[str, Mapping[str, Losses]]
    layers: Sequence[Losses]

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean over the pieces, by part and format."""
        return {part: {name: mean(own) for name, own in f.items()} for part, f in self.parts.items()}

    def sum(self, formats: Mapping[str, str]) -> Losses:
        """Return what several parts, each in a format, cost together if they add up, for each piece."""
        own = [self.parts[part][name] for part, name in formats.items()]
        return [sum(piece) for piece in zip(*own, strict=True)]


def mean(losses: Losses) -> float:
    """Return the mean over pieces."""
    return float(np.mean(losses))


def standard_error(losses: Losses) -> float:
    """Return the standard error of the mean, pieces being independent; of a single one 0."""
    return float(np.std(losses, ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0


def measure(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    possible: Mapping[str, Sequence[str]],
    progress: Progress,
) -> Sensitivity:
    """Measure each part of a model in each format, and each layer; or take what an earlier run has measured.

    All that is measured goes through a layer before the next one is read, so that weights are read once. What each
    layer has made of it is kept in the cache: an interrupted run goes on there.

    Args:
        checkpoint: the float model.
        sequences: token ids of the calibration text, from which `PIECES` of `PIECE` tokens are taken.
        possible: the formats of each part, as `formats_of_parts` finds them.
        progress: is told layers done, and blocks of the vocabulary.

    Raises what reading weights raises, StorageError.
    """
    pieces = pieces_of(sequences)
    key = json.dumps([checkpoint.identity, pieces, possible, EVERY, LAYER_PIECES, REVISION], sort_keys=True)
    work = work_folder("sensitivity", checkpoint.name, hashlib.sha256(key.encode()).hexdigest())
    with path_lock(work, lambda: progress.note("another process is measuring this: waiting for it")):
        with suppress(OSError, ValueError):
            found = Sensitivity(**json.loads((work / _RESULT).read_text("utf-8")))
            progress.note(f"what the formats cost was measured by an earlier run: {work / _RESULT}")
            return found
        with storage_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        run = _Run(checkpoint, pieces, possible, work, progress)
        run.layers()
        found = run.head()
        write_file(work / _RESULT, json.dumps(asdict(found)).encode())
        (work / _STREAMS).unlink(missing_ok=True)
    return found


class _Run:
    """The work on one model, in a folder that keeps it between runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pieces: Sequence[Sequence[int]],
        possible: Mapping[str, Sequence[str]],
        work: Path,
        progress: Progress,
    ) -> None:
        config = checkpoint.config
        self._checkpoint, self._config, self._pieces, self._possible = checkpoint, config, pieces, possible
        self._work, self._progress = work, progress
        self._kept = _KeptWeights(checkpoint.weights)
        rounded: dict[_What, Weights] = {None: self._kept}
        for kind in PROJECTIONS:
            for name in possible[kind]:
                precision = Precision("f32", 64, "f32", projections={kind: name})
                rounded[kind, name] = GridWeights(self._kept, config, precision, search=False)
        usual = next(name for name in (USUAL, "int4:32", "int8") if all(name in f for f in possible.values()))
        whole = GridWeights(self._kept, config, Precision(*FORMATS[usual], "f32"), search=False)
        self._ops = {what: _ops(config, weights, pieces) for what, weights in rounded.items()}
        few = pieces[:LAYER_PIECES]
        self._one_layer, self._after_it = _ops(config, whole, few), _ops(config, self._kept, few)
        self._few = sum(map(len, few))
        self._streams: dict[_What, Rows] = {}
        self._blocks = range(0, config.vocab_size, _VOCABULARY_ROWS)

    def layers(self) -> None:
        """Compute the layers that are not there yet."""
        total = self._config.num_hidden_layers
        first = self._resume()
        if first:
            self._progress.note(f"going on after layer {first} of {total}, which an earlier run reached")
        else:
            self._streams = dict.fromkeys(self._ops, self._ops[None].embed(_plain(TABLE)))
            values = len(self._ops) * self._streams[None].size + total * self._few * self._config.hidden_size
            require_free(self._work, 2 * 4 * values, f"measuring {self._checkpoint.name}")
        self._progress.start(f"measuring formats of {self._checkpoint.name}", total + len(self._blocks))
        self._progress.advance(first)
        for layer in range(first, total):
            before = self._streams[None][: self._few]
            self._streams = {
                what: _layer(self._ops.get(what, self._after_it), layer, x)
                for what, x in self._streams.items()
            }
            self._streams[layer] = _layer(self._one_layer, layer, before)
            self._kept.forget()
            kept = {_name(what): x for what, x in self._streams.items()}
            write_safetensors(self._work / _STREAMS, kept)
            self._progress.advance(layer + 1)

    def head(self) -> Sensitivity:
        """Compare the predictions, and those of other heads."""
        config, weights = self._config, self._checkpoint.weights
        hidden = {
            what: self._ops[None].rms_norm(x, _plain(NORM))[::EVERY] for what, x in self._streams.items()
        }
        floats = hidden.pop(None)
        heads = {
            ("lm_head", form): GridWeights(
                weights, config, Precision("f32", 64, *FORMATS[form]), search=False
            )
            for form in self._possible["lm_head"]
        }
        table = TABLE if config.tie_word_embeddings else HEAD
        reference = _LogSum(len(floats))
        divergences = {what: _Divergence(len(x)) for what, x in hidden.items()}
        divergences |= {what: _Divergence(len(floats)) for what in heads}
        for done, start in enumerate(self._blocks, config.num_hidden_layers + 1):
            stop = min(start + _VOCABULARY_ROWS, config.vocab_size)
            block = weights.read_rows(table, start, stop)
            wanted = floats @ block.T
            fall, powers = reference.add(wanted)
            for what, divergence in divergences.items():
                if what in heads:
                    logits = floats @ heads[what].read_rows(HEAD, start, stop).T
                else:
                    logits = hidden[what] @ block.T
                divergence.add(wanted, fall, powers, logits)
            self._progress.advance(done)
        found = {what: self._by_piece(d.rows(reference)) for what, d in divergences.items()}
        return Sensitivity(
            {part: {name: found[part, name] for name in self._possible[part]} for part in PARTS},
            [found[layer] for layer in range(config.num_hidden_layers)],
        )

    def _by_piece(self, rows: NDArray[np.float64]) -> Losses:
        """Means over the rows of each piece, of which there are as many as were measured."""
        places = np.repeat(np.arange(len(self._pieces)), [len(piece) for piece in self._pieces])[::EVERY]
        places = places[: len(rows)]
        return [float(rows[places == piece].mean()) for piece in np.unique(places)]

    def _resume(self) -> int:
        """Read what an earlier run left. Returns the number of layers that are done."""
        with suppress(CheckpointError), closing(SafetensorsWeights(self._work / _STREAMS)) as kept:
            everything = [*self._ops, *range(self._config.num_hidden_layers)]
            self._streams = {
                what: kept.read(_name(what)) for what in everything if _name(what) in kept.names()
            }
        return sum(isinstance(what, int) for what in self._streams)


def _name(what: _What) -> str:
    """What is rounded, as the name of a tensor."""
    return ":".join(what) if isinstance(what, tuple) else str(what)


def pieces_of(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the beginnings of sequences from all over the text; of few sequences, more pieces of each."""
    whole = [
        list(sequence[start : start + PIECE])
        for start in range(0, max(map(len, sequences)), PIECE)
        for sequence in sequences
        if start < len(sequence)
    ]
    first = [piece for piece in whole[: len(sequences)] if len(piece) == PIECE]
    chosen = first if len(first) >= PIECES else whole[:PIECES]
    return [chosen[place] for place in np.linspace(0, len(chosen) - 1, min(PIECES, len(chosen))).astype(int)]


def formats_of_parts(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Return the formats whose whole groups make up every matrix of a part. Raises InputError: there are none."""
    possible = {part: _formats_of(part, checkpoint.config) for part in PARTS}
    if not all(possible.values()):
        raise InputError(f"{checkpoint.name} has matrices that groups of 32 columns do not divide")
    return possible


def shapes_of(part: str, config: ModelConfig) -> list[tuple[int, ...]]:
    """Return the shapes of all matrices of a part."""
    if part == "lm_head":
        return [(config.vocab_size, config.hidden_size)]
    ends = tuple(f".{name}.weight" for name in PROJECTIONS[part])
    return [shape for name, shape in config.network.shapes().items() if name.endswith(ends)]


def _formats_of(part: str, config: ModelConfig) -> list[str]:
    """The formats whose whole groups make up every matrix of a part."""
    found = []
    for name, (form, size) in FORMATS.items():
        grid = make_format(form, size)
        assert isinstance(grid, GridFormat)
        if all(columns % grid.group(columns) == 0 for _, columns in shapes_of(part, config)):
            found.append(name)
    return found


def _ops(config: ModelConfig, weights: Weights, sequences: Sequence[Sequence[int]]) -> NumpyOps:
    tokens = [token for sequence in sequences for token in sequence]
    return NumpyOps(config, WeightBlocks(weights), tokens, (), [len(sequence) for sequence in sequences])


def _layer(ops: NumpyOps, layer: int, x: Rows) -> Rows:
    x, delta = ops.config.network.emit_block(
        ops, layer, x, ops.rms_norm(x, f"{block_prefix(layer)}.input_layernorm")
    )
    ops.cache.clear()
    return x + delta


class _LogSum:
    """The logarithm of the sum of the exponentials of rows of logits, which come in blocks of columns."""

    def __init__(self, rows: int) -> None:
        self.top, self.sum = np.full((rows, 1), -np.inf), np.zeros((rows, 1))

    def add(self, logits: Rows) -> tuple[NDArray[np.float64], Rows]:
        """Take the next columns; return by what sums so far fall, [rows, 1], and exp(logits - the greatest)."""
        top = np.maximum(self.top, logits.max(axis=1, keepdims=True))
        fall = np.exp(self.top - top)
        powers: Rows = np.exp(logits - top.astype(np.float32))
        self.sum = self.sum * fall + powers.sum(axis=1, keepdims=True)
        self.top = top
        return fall, powers

    @property
    def value(self) -> NDArray[np.float64]:
        """Of all so far, [rows, 1]."""
        value: NDArray[np.float64] = np.log(self.sum) + self.top
        return value


class _Divergence:
    """KL(p || q) of rows of logits that come in blocks of columns; several q may have the same p."""

    def __init__(self, rows: int) -> None:
        # The mean difference of logits under p so far.
        self._q, self._difference = _LogSum(rows), np.zeros((rows, 1))

    def add(self, p: Rows, fall: NDArray[np.float64], powers: Rows, q: Rows) -> None:
        """Take the next columns of q, and of p with what `_LogSum.add` returned for them: as many rows as q has."""
        count = len(q)
        self._q.add(q)
        self._difference *= fall[:count]
        self._difference += np.einsum("rv,rv->r", powers[:count], p[:count] - q)[:, None]

    def rows(self, p: _LogSum) -> NDArray[np.float64]:
        """Return nats, float64 [rows]."""
        count = len(self._difference)
        nats: NDArray[np.float64] = self._difference / p.sum[:count] - p.value[:count] + self._q.value
        return nats[:, 0]


class _KeptWeights:
    """A `Weights` that reads a matrix once, until it is told to forget."""

    def __init__(self, weights: Weights) -> None:
        self._weights, self._kept, self._lock = weights, dict[str, Rows](), Lock()

    def names(self) -> frozenset[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def read(self, name: str) -> Rows:
        return self._weights.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> Rows:
        if name == TABLE:
            return self._weights.read_rows(name, start, stop)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._weights.read(name)
        return self._kept[name][start:stop]

    def forget(self) -> None:
        """Free all of them."""
        self._kept.clear()


def _plain(name: str) -> str:
    return name.removesuffix(".weight")
