"""How the weights of a model are stored: what `--quant` and its companions choose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from bmqwen.errors import InputError
from bmqwen.quant import Format
from bmqwen.quant.formats import FloatFormat, GridFormat, WeightFormat, make_format
from bmqwen.quant.rounding import check_group_size
from bmqwen.weights.checkpoint import Checkpoint, is_packed, open_checkpoint
from bmqwen.weights.weights import GridSource

__all__ = ["PROJECTIONS", "AnyPrecision", "Format", "Precision", "PrecisionOptions", "rounding_of"]

GATES = (".in_proj_a", ".in_proj_b")
# The projections of a layer that can have a format of their own, those of one input together: emitters join them.
PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "down_proj": ("mlp.down_proj",),
}
_KIND_OF = {name: kind for kind, names in PROJECTIONS.items() for name in names}
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
        head_group_size: as group_size, for the head; None: the same.
        projections: those of `PROJECTIONS` whose format is another: "int8", or "int4:32" with a group size.
    """

    weights: Format = "int4"
    group_size: int = 64
    lm_head: Format = "int4"
    head_group_size: int | None = None
    projections: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for kind in self.projections:
            if kind not in PROJECTIONS:
                raise InputError(f"unknown projection {kind!r}: choose one of {', '.join(PROJECTIONS)}")
        for name in (self.weights, self.lm_head, *(self._own(kind)[0] for kind in self.projections)):
            if name not in get_args(Format):
                raise InputError(f"unknown precision {name!r}: choose one of {', '.join(get_args(Format))}")
        for size in (self.group_size, self._head_group, *(self._own(kind)[1] for kind in self.projections)):
            check_group_size(4, size)

    @classmethod
    def choose(cls, weights: Format, group_size: int = 64, lm_head: Format | None = None) -> "Precision":
        """Make a precision whose head has the format of the weights unless told otherwise."""
        return cls(weights, group_size, lm_head or weights)

    @classmethod
    def mixed(
        cls,
        projections: Mapping[str, tuple[Format, int]],
        lm_head: tuple[Format, int],
        group_size: int | None = None,
    ) -> "Precision":
        """Make a precision from format and group size of each of `PROJECTIONS` and of the head.

        Those of gate_up_proj are the layers'; `group_size`: what they are said to have if nothing is in 4 bit.
        """
        weights = projections["gate_up_proj"][0]
        fours = (size for form, size in (projections["gate_up_proj"], lm_head) if form == "int4")
        group = next(fours, group_size or 64)
        return cls(
            weights,
            group,
            lm_head[0],
            lm_head[1] if lm_head[0] == "int4" and lm_head[1] != group else None,
            {
                kind: f"{form}:{size}" if form == "int4" else form
                for kind, (form, size) in projections.items()
                if form != weights or (form == "int4" and size != group)
            },
        )

    @property
    def layers(self) -> WeightFormat:
        """Format of the decoder layers' matrices."""
        return make_format(self.weights, self.group_size)

    @property
    def head(self) -> WeightFormat:
        """Format of the head, tied or not."""
        return make_format(self.lm_head, self._head_group)

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
        if weight.removesuffix(".weight").endswith(GATES):
            # A few rows that decide what a state forgets.
            return self.layers if isinstance(self.layers, FloatFormat) else FloatFormat(np.float16)
        plain = weight.removesuffix(".weight")
        if plain in ("lm_head", "model.embed_tokens"):
            return self.head
        kind = _KIND_OF.get(".".join(plain.split(".")[-2:]))
        if kind is None or kind not in self.projections:
            return self.layers
        return make_format(*self._own(kind))

    def at(self, path: Path) -> "Precision":  # noqa: ARG002
        """Return itself: it leaves nothing open."""
        return self

    def of_checkpoint(self, checkpoint: Checkpoint | None) -> "Precision":  # noqa: ARG002
        """Return itself: it leaves nothing open."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest says."""
        said: dict[str, Any] = {
            "weights": self.weights,
            "group_size": self.group_size,
            "lm_head": self.lm_head,
        }
        if self.head_group_size is not None:
            said["head_group_size"] = self.head_group_size
        return said | ({"projections": dict(self.projections)} if self.projections else {})

    def __str__(self) -> str:
        layers, head = _text(self.weights, self.group_size), _text(self.lm_head, self._head_group)
        apart = (f"{kind} {_text(*self._own(kind))}" for kind in PROJECTIONS if kind in self.projections)
        # A group size that is that of the layers is not said twice.
        return ", ".join([layers, *apart, f"lm_head {self.lm_head if head == layers else head}"])

    @property
    def _head_group(self) -> int:
        return self.group_size if self.head_group_size is None else self.head_group_size

    def _own(self, kind: str) -> tuple[Format, int]:
        """Format and group size of a projection that has its own."""
        name, _, group = self.projections[kind].partition(":")
        if group and not (group.isascii() and group.isdigit()):
            raise InputError(f"unknown precision {self.projections[kind]!r}: write int8, or int4:32")
        return cast(Format, name), int(group) if group else self.group_size


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
        if checkpoint is None or body is None or self.weights not in (None, body[0]):
            weights = self.weights or "int4"
            return Precision(weights, self.group_size or 64, self.lm_head or weights)
        weights = body[0]
        stored = {"gate_up_proj": body}
        for kind, names in PROJECTIONS.items():
            own = _stored_grid(checkpoint, f"model.layers.0.{names[0]}.weight") or body
            # Groups of a whole row are long by chance: shorter ones hold them as well.
            chosen = checkpoint.made_here or own[0] != body[0] or own[1] % body[1]
            stored[kind] = own if chosen else body
        # Who quantised it with this program chose the head as well; others leave it as it was.
        head = head or ("f16" if checkpoint.made_here else body[0], body[1])
        if self.lm_head is not None and self.lm_head != head[0]:
            head = self.lm_head, body[1] if body[0] == "int4" else 64
        if (size := self.group_size) is not None:
            stored, head = {kind: (form, size) for kind, (form, _) in stored.items()}, (head[0], size)
        return Precision.mixed(stored, head, size)


def _stored_grid(checkpoint: Checkpoint | None, weight: str) -> tuple[Format, int] | None:
    """Format and group size of ours that hold the grid that a checkpoint has a weight on."""
    if checkpoint is None or not isinstance(checkpoint.weights, GridSource):
        return None
    stored = checkpoint.weights.grid_of(weight)
    if stored is None:
        return None
    # A long group, such as a whole row, is several of ours.
    return _FORMATS[stored[0]], next((size for size in _GROUPS if stored[1] % size == 0), 64)


def _text(form: Format, group_size: int) -> str:
    grid = make_format(form, group_size)
    chosen = isinstance(grid, GridFormat) and len(grid.group_sizes) == 1
    return form + (f" group {group_size}" if chosen else "")


AnyPrecision = Precision | PrecisionOptions


def rounding_of(checkpoint: Checkpoint, precision: Precision) -> str:
    """Return how the layers' weights come to their values at a precision, for people."""
    form = precision.layers
    if not isinstance(form, GridFormat):
        return "none"
    if form.keeps(checkpoint.weights, _FIRST):
        return f"the checkpoint's own: {checkpoint.rounded_by}"
    return "least squared error of the weights" if form.bits == 4 else "to nearest"
