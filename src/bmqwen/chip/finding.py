"""Something found on a machine: how bad it is, and what mends it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bmqwen.chip.problems import Problem

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact.

    Attributes:
        area: "software", "chip" or "model".
        level: error where something does not work that this machine should be able to do.
        text: what was found.
        fix: what to do about it; commands in backticks.
    """

    area: str
    level: Level
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.fix}" if self.fix else self.text

    @classmethod
    def of(cls, area: str, problem: Problem, level: Level = "error") -> "Finding":
        """A problem that the runtimes would report as well."""
        return cls(area, level, problem.cause, problem.fix)

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)
