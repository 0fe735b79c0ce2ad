"""Something found on a machine: how bad it is, and what mends it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bmqwen.chip.troubles import Trouble

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact.

    Attributes:
        area: "software", "chip" or "model".
        level: error where something does not work that this machine should be able to do.
        text: what was found.
        cure: what to do about it; commands in backticks.
    """

    area: str
    level: Level
    text: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.cure}" if self.cure else self.text

    @classmethod
    def of(cls, area: str, trouble: Trouble, level: Level = "error") -> "Finding":
        """A trouble that the runtimes would report as well."""
        return cls(area, level, trouble.cause, trouble.cure)

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)
