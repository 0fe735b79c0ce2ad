"""Which precision is worth most within a budget of bytes: formats of layers and head, each measured on the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmqwen.calibration.rotation import HEAD, NORM, TABLE
from bmqwen.emit.numpy import NumpyOps, Rows
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.progress import Progress
from bmqwen.util.text import size_text
from bmqwen.weights.checkpoint import Checkpoint
from bmqwen.weights.weights import Weights

# What one net can hold, from the least bytes on.
LAYERS: tuple[tuple[Format, int], ...] = (("int4", 128), ("int4", 64), ("int4", 32), ("int8", 64))
HEADS: tuple[Format, ...] = ("int4", "int8")
# Tokens that each is measured on, and those of them whose predictions are compared.
TOKENS, COMPARED = 512, 256
_VOCABULARY_ROWS = 16384


@dataclass(frozen=True, slots=True)
class Choice:
    """A precision, the bytes of weights that it reads for a token, and its KL to the float model, nats a token.

    The divergence is measured before calibration, which lowers it: it ranks.
    """

    precision: Precision
    bytes: int
    divergence: float

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return self.precision.to_dict() | {"token_bytes": self.bytes, "divergence": self.divergence}

    def __str__(self) -> str:
        return (
            f"{self.precision}: {size_text(self.bytes)} a token, KL {self.divergence:.4f} before calibration"
        )


def choose(choices: Sequence[Choice], budget: int) -> Choice:
    """Return the one of least divergence that reads at most so many bytes. Raises InputError where none does."""
    within = [choice for choice in choices if choice.bytes <= budget]
    if not within:
        least = min(choices, key=lambda choice: choice.bytes)
        raise InputError(
            f"--budget {size_text(budget)} cannot be met: {least.precision} reads {size_text(least.bytes)} a token, "
            "and nothing reads less"
        )
    return min(within, key=lambda choice: choice.divergence)


def token_bytes(config: ModelConfig, precision: Precision) -> int:
    """Return the bytes of weights on the chip that computing a token reads."""
    shapes = {name: shape for name, shape in config.network.shapes().items() if len(shape) == 2}
    shapes[HEAD] = shapes.pop(TABLE)
    return sum(sum(precision.of(name).chip_bytes(*shape)) for name, shape in shapes.items())


def measure(checkpoint: Checkpoint, sequences: Sequence[Sequence[int]], progress: Progress) -> list[Choice]:
    """Measure what each format of layers and head does to the model's predictions, from the least bytes on.

    Args:
        checkpoint: the float model.
        sequences: token ids of the calibration text, of which the first `TOKENS` are used.
        progress: is told formats done.

    Raises what reading weights raises, and InputError where no format fits the matrices.
    """
    weights = GridWeights(checkpoint.weights, checkpoint.config, Precision.choose("f32"))
    config = weights.config
    candidates = [form for form in LAYERS if _fits(config, Precision(*form, form[0]))]
    if not candidates:
        raise InputError(f"{checkpoint.name} has matrices that groups of 32 columns do not divide")
    progress.start(f"measuring formats of {checkpoint.name}", 1 + len(candidates))
    used = list(_cut(sequences, TOKENS))
    wanted = np.linspace(0, sum(map(len, used)) - 1, COMPARED).astype(int)
    floats = _hidden(config, weights, used)[wanted]
    progress.advance(1)
    found = []
    for done, (form, group) in enumerate(candidates, 2):
        precisions = [Precision(form, group, head) for head in HEADS]
        hidden = _hidden(config, GridWeights(checkpoint.weights, checkpoint.config, precisions[0]), used)[
            wanted
        ]
        for precision in precisions:
            head = GridWeights(checkpoint.weights, checkpoint.config, precision)
            divergence = _divergence(floats, weights, hidden, head)
            found.append(Choice(precision, token_bytes(config, precision), divergence))
        progress.advance(done)
    return sorted(found, key=lambda choice: choice.bytes)


def _fits(config: ModelConfig, precision: Precision) -> bool:
    """Whether whole groups make up every matrix."""
    forms = (
        (precision.of(name), shape) for name, shape in config.network.shapes().items() if len(shape) == 2
    )
    return all(shape[1] % form.group(shape[1]) == 0 for form, shape in forms if isinstance(form, GridFormat))


def _cut(sequences: Sequence[Sequence[int]], tokens: int) -> Iterator[Sequence[int]]:
    """The first so many tokens."""
    for sequence in sequences:
        if tokens <= 0:
            return
        yield sequence[:tokens]
        tokens -= len(sequence)


def _hidden(config: ModelConfig, weights: Weights, sequences: Sequence[Sequence[int]]) -> Rows:
    """The result of the last norm, [tokens, hidden]; of a layer's weights, only a block is in memory."""
    tokens = [token for sequence in sequences for token in sequence]
    ops = NumpyOps(config, WeightBlocks(weights), tokens, (), [len(sequence) for sequence in sequences])
    x = ops.embed(TABLE.removesuffix(".weight"))
    for layer in range(config.num_hidden_layers):
        h = ops.rms_norm(x, f"model.layers.{layer}.input_layernorm")
        x, delta = config.network.emit_block(ops, layer, x, h)
        ops.cache.clear()
        x = x + delta
    return ops.rms_norm(x, NORM.removesuffix(".weight"))


def _divergence(floats: Rows, head: Weights, hidden: Rows, rounded: Weights) -> float:
    """Mean KL of the predictions from two hidden states with their heads."""
    p, q = (_log_probabilities(x, source) for x, source in ((floats, head), (hidden, rounded)))
    return float(np.einsum("rv,rv->r", np.exp(p), p - q).mean())


def _log_probabilities(x: Rows, weights: Weights) -> Rows:
    rows = weights.shape(HEAD)[0]
    blocks = (
        weights.read_rows(HEAD, start, min(start + _VOCABULARY_ROWS, rows))
        for start in range(0, rows, _VOCABULARY_ROWS)
    )
    logits: Rows = np.concatenate([x @ block.T for block in blocks], axis=1)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits
