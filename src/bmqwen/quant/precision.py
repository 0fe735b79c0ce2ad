"""How the weights of a model are stored: what `--quant` and its companions choose."""

from dataclasses import dataclass
from typing import Any, Literal

from bmqwen.errors import InputError
from bmqwen.quant.grid import check_group_size

Format = Literal["f32", "f16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("f32", "f16", "int8", "int4")
BITS = {"int8": 8, "int4": 4}
# 256 steps are fine enough for long groups, and fewer scales are read.
EIGHT_BIT_GROUP = 128


@dataclass(frozen=True, slots=True)
class Precision:
    """Formats of the decoder layers and of the head. Raises InputError for an unknown one.

    Attributes:
        weights: format of the projections.
        group_size: columns that share a scale, for int4; int8 has EIGHT_BIT_GROUP.
        lm_head: format of the head; the embedding table itself stays in half precision (f32 when weights are).
    """

    weights: Format = "int4"
    group_size: int = 64
    lm_head: Format = "int4"

    def __post_init__(self) -> None:
        for name in (self.weights, self.lm_head):
            if name not in FORMATS:
                raise InputError(f"unknown precision {name!r}: choose one of {', '.join(FORMATS)}")
        check_group_size(4, self.group_size)

    @classmethod
    def choose(cls, weights: Format, group_size: int = 64, lm_head: Format | None = None) -> "Precision":
        """A precision whose head has the format of the weights unless told otherwise."""
        return cls(weights, group_size, lm_head or weights)

    def of(self, weight: str) -> Format:
        """Format of a weight by its name in the checkpoint."""
        return self.lm_head if weight in ("lm_head", "model.embed_tokens") else self.weights

    def group_of(self, weight: str, columns: int) -> int:
        """Group size of a quantised weight with that many columns."""
        if self.of(weight) == "int4":
            return self.group_size
        # Shorter where the columns demand it: a chip has no groups that are not full.
        return next((g for g in (EIGHT_BIT_GROUP, 64, 32, 16) if columns % g == 0), EIGHT_BIT_GROUP)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {"weights": self.weights, "group_size": self.group_size, "lm_head": self.lm_head}

    def __str__(self) -> str:
        group = f" group {self.group_size}" if "int4" in (self.weights, self.lm_head) else ""
        return f"{self.weights}{group}, lm_head {self.lm_head}"
