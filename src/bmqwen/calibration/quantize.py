"""A checkpoint is quantised by what it computes on calibration text: layer by layer, resumable, into a GPTQ folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.calibration.passes import Drift, FloatPass, RoundingPass, input_drift
from bmqwen.calibration.rotation import rotated
from bmqwen.emit.numpy import Rows
from bmqwen.errors import CheckpointError, InputError
from bmqwen.generate.retrieval import check_task
from bmqwen.model.architecture import block_prefix
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.gptq import Compensation
from bmqwen.quant.precision import PROJECTIONS, Precision
from bmqwen.quant.rounding import require_scales
from bmqwen.util.float16 import MOST_F16
from bmqwen.util.kept_work import work_folder
from bmqwen.util.progress import Progress
from bmqwen.util.storage import new_folder, path_lock, require_free, storage_errors, write_file
from bmqwen.version import __version__
from bmqwen.weights.checkpoint import Checkpoint
from bmqwen.weights.gptq_writer import gptq_tensors, write_safetensors
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.weights import Grid

METHOD = "GPTQ with rotation and drift correction"
# Raised when the method changes, so that an interrupted run of an older one is not resumed.
REVISION = 3
HEAD, TABLE, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm"
_HEAD_ROWS = 8192
_STATE = "streams.safetensors"


@dataclass(frozen=True, slots=True)
class Quantised:
    """What was made.

    Attributes:
        folder: the checkpoint.
        tokens: of calibration text.
        largest: for each layer the greatest absolute value of an activation on that text.
        stream_error: for each layer the error of the residual stream after it: squares against the float model's.
    """

    folder: Path
    tokens: int
    largest: tuple[float, ...]
    stream_error: tuple[float, ...]

    @property
    def overflowing(self) -> list[int]:
        """Layers with a value that half precision cannot hold."""
        return [layer for layer, value in enumerate(self.largest) if value > MOST_F16]

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "folder": str(self.folder),
            "method": METHOD,
            "tokens": self.tokens,
            "largest_activation": max(self.largest),
            "overflowing_layers": self.overflowing,
            "stream_error": self.stream_error[-1],
        }


def quantize(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    sequences: Sequence[Sequence[int]],
    *,
    calibration: str,
    progress: Progress,
) -> Quantised:
    """Write a checkpoint of 4- or 8-bit grids in GPTQ's second layout, rounded by what the model computes.

    An interrupted run goes on where it was: what each layer became is kept in the cache until the folder is complete.

    Args:
        checkpoint: the float model.
        folder: where the new one appears, complete.
        precision: formats of layers and head; the layers must be on a grid.
        sequences: token ids of the calibration text.
        calibration: what that text is, for the new checkpoint's configuration.
        progress: is told layers done.

    Raises:
        InputError: `folder` is there, layers that are not on a grid, columns that the groups do not divide.
        CheckpointError: weights or activations that are not numbers.
        StorageError: a full disk.
    """
    check(checkpoint, folder, precision)
    tokenizer = checkpoint.tokenizer_files()
    tokens = sum(map(len, sequences))
    parts = [checkpoint.identity, precision.to_dict(), [list(s) for s in sequences], REVISION]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    # A table that serves as the head in half precision as well is not stored a second time.
    if isinstance(precision.head, GridFormat) or not checkpoint.config.tie_word_embeddings:
        checkpoint = rotated(checkpoint)
    work = work_folder("quantize", checkpoint.name, key)
    size = checkpoint.config.hidden_size * tokens * 8 * 2 + 2 * checkpoint.parameters
    require_free(work.parent, size, f"quantising {checkpoint.name}")
    with path_lock(work, lambda: progress.note("another process is quantising this: waiting for it")):
        with storage_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        run = _Run(checkpoint, precision, sequences, work, progress)
        run.layers()
        run.head()
        with new_folder(folder) as part:
            for shard in run.shards:
                _link(work / shard, part / shard)
            for name, content in tokenizer.items():
                write_file(part / name, content)
            write_file(part / "model.safetensors.index.json", _json(run.index()))
            write_file(
                part / "config.json", _json(_config(checkpoint, precision, tokens, calibration, run.largest))
            )
        shutil.rmtree(work, ignore_errors=True)
    return Quantised(folder, tokens, tuple(run.largest), tuple(run.stream_error))


def check(
    checkpoint: Checkpoint, folder: Path, precision: Precision, fix: str = "choose another --group-size"
) -> None:
    """Raise InputError where a quantisation could not be written, before anything is computed.

    `fix`: what a user can do where groups do not divide a matrix.
    """
    check_task(checkpoint.config, checkpoint.name, "chat")
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it or choose another name")
    of_layers = (precision.layers, *(precision.of(names[0]) for names in PROJECTIONS.values()))
    if not all(isinstance(form, GridFormat) for form in of_layers):
        raise InputError(f"--quant {precision.weights} leaves nothing to quantise: choose int4 or int8")
    if "linear_attention" in checkpoint.config.layer_types:
        raise InputError(
            f"{checkpoint.name} has layers of linear attention, which cannot be calibrated yet: use the rounding of "
            "export and compile"
        )
    for name, shape in checkpoint.config.network.shapes().items():
        form = precision.of(name)
        if len(shape) == 2 and isinstance(form, GridFormat):
            size = form.group(shape[1])
            if shape[1] % size or shape[0] % 8:
                raise InputError(
                    f"{name} has {shape[1]:,} columns, which groups of {size} do not divide: {fix}"
                )


class _Run:
    """The work on one checkpoint, in a folder that keeps it between runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        sequences: Sequence[Sequence[int]],
        work: Path,
        progress: Progress,
    ) -> None:
        self._checkpoint, self._config, self._precision = checkpoint, checkpoint.config, precision
        self._work, self._progress = work, progress
        self._float = FloatPass(self._config, checkpoint.weights, sequences)
        self._pass = RoundingPass(self._config, checkpoint.weights, sequences, self._float, self._round)
        count = self._config.num_hidden_layers + 1
        self.shards = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        self.largest: list[float] = []
        self.stream_error: list[float] = []
        self._made: dict[str, NDArray[Any]] = {}
        self._streams: tuple[Rows, Rows] | None = None

    def layers(self) -> None:
        """Round the layers that are not there yet."""
        first = self._resume()
        total = self._config.num_hidden_layers
        if first:
            self._progress.note(f"going on after layer {first} of {total}, which an earlier run reached")
        self._progress.start(f"quantising {self._checkpoint.name}", total + 1)
        self._progress.advance(first)
        for layer in range(first, total):
            norm = f"{block_prefix(layer)}.input_layernorm"
            floats, rounded = self._streams or (self._float.embed("model.embed_tokens"),) * 2
            floats = self._float.layer(layer, floats, norm)
            rounded = self._pass.layer(layer, rounded, norm)
            if not np.isfinite(self._pass.largest):
                raise CheckpointError(
                    f"layer {layer} of {self._checkpoint.name} computes values that are not numbers: "
                    "its weights are broken"
                )
            self._streams = floats, rounded
            self.largest.append(self._pass.largest)
            error = rounded - floats
            self.stream_error.append(float((error * error).sum() / (floats * floats).sum()))
            for name, shape in self._config.network.shapes().items():
                if name.startswith(f"{block_prefix(layer)}.") and len(shape) == 1:
                    self._made[name] = self._checkpoint.weights.read(name)
            self._keep(layer)
            self._progress.advance(layer + 1)

    def head(self) -> None:
        """Round the head; write it with the table and the last norm."""
        assert self._streams is not None
        config, weights = self._config, self._checkpoint.weights
        self._made[TABLE] = weights.read(TABLE).astype(np.float16)
        self._made[f"{NORM}.weight"] = weights.read(f"{NORM}.weight")
        source = TABLE if config.tie_word_embeddings else HEAD
        if isinstance(self._precision.head, GridFormat):
            floats, rounded = (self._float.rms_norm(stream, NORM) for stream in self._streams)
            drift = input_drift(rounded, floats)
            form = self._precision.head
            compensation = Compensation.prepare(
                drift.moments, drift.tokens, form.bits, form.group(config.hidden_size)
            )
            grids = [
                compensation.round(drift.corrected(weights.read_rows(source, start, start + count)))
                for start, count in _blocks(config.vocab_size, _HEAD_ROWS)
            ]
            self._made |= gptq_tensors("lm_head", require_scales(_stacked(grids), source))
        elif not config.tie_word_embeddings:
            self._made[HEAD] = weights.read(HEAD).astype(np.float16)
        write_safetensors(self._work / self.shards[-1], self._made)
        self._progress.advance(config.num_hidden_layers + 1)

    def index(self) -> dict[str, Any]:
        """Return what model.safetensors.index.json says."""
        places: dict[str, str] = {}
        total = 0
        for shard in self.shards:
            path = self._work / shard
            data = path.read_bytes()[:8]
            with path.open("rb") as file:
                file.seek(8)
                header = json.loads(file.read(int.from_bytes(data, "little")))
            places |= {name: shard for name in header if name != "__metadata__"}
            total += path.stat().st_size
        return {"metadata": {"total_size": total}, "weight_map": places}

    def _round(self, names: tuple[str, ...], matrix: Rows, drift: Drift) -> Grid:
        if not np.isfinite(drift.moments).all():
            raise CheckpointError(
                f"the inputs of {names[0]} hold values that are not numbers: weights are broken"
            )
        form = self._precision.of(names[0])
        assert isinstance(form, GridFormat)
        compensation = Compensation.prepare(
            drift.moments, drift.tokens, form.bits, form.group(matrix.shape[1])
        )
        grid = compensation.round(drift.corrected(matrix))
        start = 0
        for name in names:
            stop = start + self._checkpoint.weights.shape(name)[0]
            rows = slice(start, stop)
            part = replace(grid, codes=grid.codes[rows], scales=grid.scales[rows], zeros=grid.zeros[rows])
            self._made |= gptq_tensors(name.removesuffix(".weight"), require_scales(part, name))
            start = stop
        return grid

    def _keep(self, layer: int) -> None:
        """Write a layer's shard, then the streams after it: they say that it is there."""
        write_safetensors(self._work / self.shards[layer], self._made)
        self._made = {}
        assert self._streams is not None
        state = {
            "floats": self._streams[0],
            "rounded": self._streams[1],
            "largest": np.array(self.largest, np.float32),
            "stream_error": np.array(self.stream_error, np.float32),
        }
        write_safetensors(self._work / _STATE, state)

    def _resume(self) -> int:
        """Read what an earlier run left. Returns the number of layers that are done."""
        with suppress(CheckpointError), closing(SafetensorsWeights(self._work / _STATE)) as kept:
            largest = kept.read("largest").tolist()
            if all((self._work / shard).is_file() for shard in self.shards[: len(largest)]):
                self._streams = kept.read("floats"), kept.read("rounded")
                self.largest, self.stream_error = largest, kept.read("stream_error").tolist()
        return len(self.largest)


def _config(
    checkpoint: Checkpoint, precision: Precision, tokens: int, calibration: str, largest: Sequence[float]
) -> dict[str, Any]:
    """The new config.json."""
    layers, head = precision.layers, precision.head
    assert isinstance(layers, GridFormat)
    config = checkpoint.config
    packed_head = isinstance(head, GridFormat)
    quantization: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2",
        "bits": layers.bits,
        "group_size": layers.group(config.hidden_size),
        "desc_act": False,
        "sym": False,
        "lm_head": packed_head,
        "meta": {
            "quantizer": [f"bmqwen:{__version__}"],
            "method": METHOD,
            "calibration": calibration,
            "calibration_tokens": tokens,
            "largest_activation": max(largest),
        },
    }
    shapes = config.network.shapes()
    apart = {
        _rule(kind, names): (names[0], shapes[f"{block_prefix(0)}.{names[0]}.weight"])
        for kind, names in PROJECTIONS.items()
    }
    apart["+:lm_head"] = "lm_head", (config.vocab_size, config.hidden_size)
    dynamic = {}
    for rule, (name, shape) in apart.items():
        form = precision.of(name)
        if isinstance(form, GridFormat):
            own = {"bits": form.bits, "group_size": form.group(shape[1])}
            if own != {key: quantization[key] for key in own}:
                dynamic[rule] = own
    if dynamic:
        quantization["dynamic"] = dynamic
    tied = config.tie_word_embeddings and not packed_head
    return config.to_dict() | {
        "tie_word_embeddings": tied,
        "torch_dtype": "float16",
        "quantization_config": quantization,
    }


def _rule(kind: str, names: Sequence[str]) -> str:
    """What names these projections of every layer in GPTQModel's `dynamic`: a regular expression for modules.

    vLLM joins projections of one input and looks for the joined one, which has the name of the kind.
    """
    modules = dict.fromkeys([*(name.rpartition(".")[2] for name in names), kind])
    return f"+:.*\\.(?:{'|'.join(modules)})$"


def _stacked(grids: Sequence[Grid]) -> Grid:
    codes, scales, zeros = (
        np.concatenate([getattr(grid, part) for grid in grids]) for part in ("codes", "scales", "zeros")
    )
    return replace(grids[0], codes=codes, scales=scales, zeros=zeros)


def _blocks(rows: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(step, rows - start)) for start in range(0, rows, step)]


def _link(source: Path, target: Path) -> None:
    """Put a file at a second place: on one disk without a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _json(values: object) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode()
