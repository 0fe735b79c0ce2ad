"""What rounding each part of a model does to its predictions: one part in one format at a time, all in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bmqwen.calibration.rotation import HEAD, NORM, TABLE
from bmqwen.emit.numpy import NumpyOps, Rows
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.model.architecture import block_prefix
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat, make_format
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import PROJECTIONS, Format, Precision
from bmqwen.util.progress import Progress
from bmqwen.weights.checkpoint import Checkpoint
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
# Tokens that each part is measured on, and those of them whose predictions are compared; and the tokens for layers.
TOKENS, COMPARED, LAYER_TOKENS = 512, 256, 128
_VOCABULARY_ROWS = 16384
# What is rounded: a part in a format, a layer, nothing.
_What = tuple[str, str] | int | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """KL to the float model in nats a token, with one thing rounded, for the least squared error, and the rest not.

    Attributes:
        parts: by part and format; only formats whose groups divide the matrices.
        layers: with all projections of one layer in `USUAL`, or the next finer format that fits, on fewer tokens.
    """

    parts: Mapping[str, Mapping[str, float]]
    layers: Sequence[float]


def measure(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    possible: Mapping[str, Sequence[str]],
    progress: Progress,
) -> Sensitivity:
    """Measure each part of a model in each format, and each layer.

    All that is measured goes through a layer before the next one is read, so that weights are read once.

    Args:
        checkpoint: the float model.
        sequences: token ids of the calibration text, of which the first `TOKENS` are used.
        possible: the formats of each part, as `formats_of_parts` finds them.
        progress: is told layers done.

    Raises what reading weights raises.
    """
    config, kept = checkpoint.config, _KeptWeights(checkpoint.weights)
    usual = next(name for name in (USUAL, "int4:32", "int8") if all(name in own for own in possible.values()))
    rounded: dict[_What, Weights] = {None: kept}
    for kind in PROJECTIONS:
        for name in possible[kind]:
            precision = Precision("f32", 64, "f32", projections={kind: name})
            rounded[kind, name] = GridWeights(kept, config, precision)
    whole = GridWeights(kept, config, Precision(*FORMATS[usual], "f32"))
    used = _cut(sequences, TOKENS)
    ops = {what: _ops(config, weights, used) for what, weights in rounded.items()}
    few = _cut(used, LAYER_TOKENS)
    one_layer, after_it = _ops(config, whole, few), _ops(config, kept, few)
    streams: dict[_What, Rows] = dict.fromkeys(ops, ops[None].embed(_plain(TABLE)))
    progress.start(f"measuring formats of {checkpoint.name}", config.num_hidden_layers + 1)
    for done, layer in enumerate(config.layers, 1):
        before = streams[None][: sum(map(len, few))]
        streams = {what: _layer(ops.get(what, after_it), layer, x) for what, x in streams.items()}
        streams[layer] = _layer(one_layer, layer, before)
        kept.forget()
        progress.advance(done)
    rows = np.linspace(0, len(streams[None]) - 1, COMPARED).astype(int)
    hidden = {what: ops[None].rms_norm(x, _plain(NORM)) for what, x in streams.items()}
    floats = hidden.pop(None)
    pairs = {
        what: (floats[: len(x)], x) if what in config.layers else (floats[rows], x[rows])
        for what, x in hidden.items()
    }
    found = _divergences(pairs, floats[rows], checkpoint, possible["lm_head"])
    progress.advance(config.num_hidden_layers + 1)
    parts = {part: {name: found[part, name] for name in possible[part]} for part in PARTS}
    return Sensitivity(parts, [found[layer] for layer in config.layers])


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


def _cut(sequences: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """The first so many tokens."""
    found = []
    for sequence in sequences:
        if tokens > 0:
            found.append(sequence[:tokens])
            tokens -= len(sequence)
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


def _divergences(
    pairs: Mapping[_What, tuple[Rows, Rows]], floats: Rows, checkpoint: Checkpoint, heads: Sequence[str]
) -> dict[_What, float]:
    """Mean KL of the predictions from pairs of hidden states [rows, hidden], and from `floats` with other heads."""
    config, weights = checkpoint.config, checkpoint.weights
    name = TABLE if config.tie_word_embeddings else HEAD
    rounded: dict[_What, Weights] = {
        ("lm_head", form): GridWeights(weights, config, Precision("f32", 64, *FORMATS[form]))
        for form in heads
    }
    sums = {what: _Divergence(len(x)) for what, (_, x) in pairs.items()}
    sums |= {what: _Divergence(len(floats)) for what in rounded}
    for start in range(0, config.vocab_size, _VOCABULARY_ROWS):
        stop = min(start + _VOCABULARY_ROWS, config.vocab_size)
        block = weights.read_rows(name, start, stop)
        for what, (wanted, x) in pairs.items():
            sums[what].add(wanted @ block.T, x @ block.T)
        wanted = floats @ block.T
        for what, source in rounded.items():
            sums[what].add(wanted, floats @ source.read_rows(HEAD, start, stop).T)
    return {what: total.mean for what, total in sums.items()}


class _Divergence:
    """KL(p || q) of rows of logits that come in blocks of columns."""

    def __init__(self, rows: int) -> None:
        # The greatest logit so far, sums of exponentials above it, and the mean difference of logits under p so far.
        self._tops = np.full((2, rows, 1), -np.inf)
        self._sums = np.zeros((2, rows, 1))
        self._difference = np.zeros((rows, 1))

    def add(self, p: Rows, q: Rows) -> None:
        """Take the next columns."""
        powers: list[NDArray[np.float32]] = []
        for i, logits in enumerate((p, q)):
            top = np.maximum(self._tops[i], logits.max(axis=1, keepdims=True))
            fall = np.exp(self._tops[i] - top)
            powers.append(np.exp(logits - top.astype(np.float32)))
            self._sums[i] = self._sums[i] * fall + powers[i].sum(axis=1, keepdims=True)
            self._tops[i] = top
            if i == 0:
                self._difference *= fall
        self._difference += np.einsum("rv,rv->r", powers[0], p - q)[:, None]

    @property
    def mean(self) -> float:
        """Nats a row."""
        normal = np.log(self._sums) + self._tops
        return float((self._difference / self._sums[0] - normal[0] + normal[1]).mean())


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
