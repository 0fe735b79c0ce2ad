"""How the weights of a model are stored: what `--quant` and its companions choose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from bmqwen.errors import InputError
from bmqwen.quant import Format
from bmqwen.quant.formats import FloatFormat, GridFormat, WeightFormat, make_format
from bmqwen.quant.rounding import check_group_size
from bmqwen.weights.checkpoint import Checkpoint, is_packed, open_checkpoint
from bmqwen.weights.weights import GridSource

_GATES = (".in_proj_a", ".in_proj_b")
__all__ = ["AnyPrecision", "Format", "Precision", "PrecisionOptions", "rounding_of"]
# A matrix of every model: what it is stored as, the others of the layers are.
_FIRST = "model.layers.0.mlp.gate_proj.weight"
_GROUPS = (256, 128, 64, 32, 16)
_FORMATS: dict[int, Format] = {4: "int4", 8: "int8"}


@dataclass(frozen=True, slots=True)
class Precision:
    """Formats of the decoder layers and of the head. Raises InputError for an unknown one.

    Attributes:
        weights: format of the projections.
        group_size: columns that share a scale, for int4; int8 has groups of its own.
        lm_head: format of the head; the embedding table itself stays in half precision (f32 when weights are).
    """

    weights: Format = "int4"
    group_size: int = 64
    lm_head: Format = "int4"

    def __post_init__(self) -> None:
        for name in (self.weights, self.lm_head):
            if name not in get_args(Format):
                raise InputError(f"unknown precision {name!r}: choose one of {', '.join(get_args(Format))}")
        check_group_size(4, self.group_size)

    @classmethod
    def choose(cls, weights: Format, group_size: int = 64, lm_head: Format | None = None) -> "Precision":
        """Make a precision whose head has the format of the weights unless told otherwise."""
        return cls(weights, group_size, lm_head or weights)

    @property
    def layers(self) -> WeightFormat:
        """Format of the decoder layers' matrices."""
        return make_format(self.weights, self.group_size)

    @property
    def head(self) -> WeightFormat:
        """Format of the head, tied or not."""
        return make_format(self.lm_head, self.group_size)

    @property
    def table(self) -> FloatFormat:
        """Format of the embedding table."""
        return self.head if isinstance(self.head, FloatFormat) else FloatFormat(np.float16)

    @property
    def quantised(self) -> bool:
        """Whether any weight is on a grid."""
        return isinstance(self.layers, GridFormat) or isinstance(self.head, GridFormat)

    def of(self, weight: str) -> WeightFormat:
        """Return a weight's format by its name in the checkpoint, with or without ".weight"."""
        if weight.removesuffix(".weight").endswith(_GATES):
            # A few rows that decide what a state forgets.
            return self.layers if isinstance(self.layers, FloatFormat) else FloatFormat(np.float16)
        is_head = weight.removesuffix(".weight") in ("lm_head", "model.embed_tokens")
        return self.head if is_head else self.layers

    def at(self, path: Path) -> "Precision":  # noqa: ARG002
        """Return itself: it leaves nothing open."""
        return self

    def of_checkpoint(self, checkpoint: Checkpoint | None) -> "Precision":  # noqa: ARG002
        """Return itself: it leaves nothing open."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest says."""
        return {"weights": self.weights, "group_size": self.group_size, "lm_head": self.lm_head}

    def __str__(self) -> str:
        chosen = any(isinstance(f, GridFormat) and len(f.group_sizes) == 1 for f in (self.layers, self.head))
        group = f" group {self.group_size}" if chosen else ""
        return f"{self.weights}{group}, lm_head {self.lm_head}"


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """What is said of a precision. What is left open, None, is that of the checkpoint's own grids, else the default.

    Raises InputError for an unknown group size.

    Attributes:
        weights, group_size, lm_head: as of `Precision`.
    """

    weights: Format | None = None
    group_size: int | None = None
    lm_head: Format | None = None

    def __post_init__(self) -> None:
        if self.group_size is not None:
            check_group_size(4, self.group_size)

    def at(self, path: Path) -> Precision:
        """Return the precision for the checkpoint at a path, which is opened only if it has grids of its own.

        Raises what `open_checkpoint` raises.
        """
        if not is_packed(path):
            return self.of_checkpoint(None)
        with open_checkpoint(path) as checkpoint:
            return self.of_checkpoint(checkpoint)

    def of_checkpoint(self, checkpoint: Checkpoint | None) -> Precision:
        """Return the precision for a checkpoint; None: for one that has no grids of its own."""
        body, head = _stored_grid(checkpoint, _FIRST), _stored_grid(checkpoint, "lm_head.weight")
        if checkpoint is None or body is None or self.weights not in (None, _FORMATS[body[0]]):
            weights = self.weights or "int4"
            return Precision(weights, self.group_size or 64, self.lm_head or weights)
        weights = _FORMATS[body[0]]
        # Who quantised it with this program chose the head as well; others leave it as it was.
        lm_head = _FORMATS[head[0]] if head else ("f16" if checkpoint.made_here else weights)
        stored = next((size for bits, size in filter(None, (body, head)) if bits == 4), 64)
        # A long group, such as a whole row, is several of ours.
        groups = next((size for size in _GROUPS if stored % size == 0), 64)
        return Precision(weights, self.group_size or groups, self.lm_head or lm_head)


def _stored_grid(checkpoint: Checkpoint | None, weight: str) -> tuple[int, int] | None:
    """Bits and group size of the grid that a checkpoint has a weight on."""
    if checkpoint is None or not isinstance(checkpoint.weights, GridSource):
        return None
    return checkpoint.weights.grid_of(weight)


AnyPrecision = Precision | PrecisionOptions


def rounding_of(checkpoint: Checkpoint, precision: Precision) -> str:
    """Return how the layers' weights come to their values at a precision, for people."""
    form = precision.layers
    if not isinstance(form, GridFormat):
        return "none"
    if form.keeps(checkpoint.weights, _FIRST):
        return f"the checkpoint's own: {checkpoint.rounded_by}"
    return "least squared error of the weights" if form.bits == 4 else "to nearest"
