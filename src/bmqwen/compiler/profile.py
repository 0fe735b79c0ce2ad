"""What the compiler says of a net's time on the chip, and of the memory traffic that it is made of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmqwen.compiler.timeline import Timeline, read_timeline
from bmqwen.errors import CompileError

_CYCLES = re.compile(r"^API_END total_cycle:(\d+)", re.MULTILINE)
_TRAFFIC = re.compile(r"^GDMA SUMMARY.*S2L:(\d+).*L2S:(\d+).*S2S:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Profile:
    """One launch of a net.

    Attributes:
        cycles: of 1 ns.
        bytes_read: from device memory into the core.
        bytes_written: from the core to device memory.
        bytes_copied: inside of device memory.
        bus_idle: cycles in which the memory bus does nothing.
        part_cycles, part_bytes: cycles and bytes of each part of the model: weights, kv, lm_head, other. Empty where
            the compiler left no timeline.
    """

    cycles: int
    bytes_read: int
    bytes_written: int
    bytes_copied: int
    bus_idle: int = 0
    part_cycles: dict[str, int] = field(default_factory=dict)
    part_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_moved(self) -> int:
        """Over the memory bus: what is copied inside of device memory goes both ways."""
        return self.bytes_read + self.bytes_written + 2 * self.bytes_copied

    def extended(self, longer: "Profile", layers: int) -> "Profile":
        """The profile of the same net with more layers: this one has one layer, `longer` has two of equal ones."""

        def line(one: int, two: int) -> int:
            return one + (two - one) * (layers - 1)

        def lines(one: Mapping[str, int], two: Mapping[str, int]) -> dict[str, int]:
            return {part: line(count, two.get(part, count)) for part, count in one.items()}

        return Profile(
            line(self.cycles, longer.cycles),
            line(self.bytes_read, longer.bytes_read),
            line(self.bytes_written, longer.bytes_written),
            line(self.bytes_copied, longer.bytes_copied),
            line(self.bus_idle, longer.bus_idle),
            lines(self.part_cycles, longer.part_cycles),
            lines(self.part_bytes, longer.part_bytes),
        )

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "Profile":
        """From what `dataclasses.asdict` made, other keys ignored. Raises KeyError, TypeError or ValueError."""
        parts = [
            {str(part): int(count) for part, count in stated.get(name, {}).items()}
            for name in ("part_cycles", "part_bytes")
        ]
        return cls(
            int(stated["cycles"]),
            int(stated["bytes_read"]),
            int(stated["bytes_written"]),
            int(stated["bytes_copied"]),
            int(stated.get("bus_idle", 0)),
            *parts,
        )


def read_profile(path: Path) -> Profile:
    """Read the compiler's timeline of a net. Raises CompileError if there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise CompileError(f"the compiler left no timing in {path}: {error.strerror}") from error
    cycles, traffic = _CYCLES.findall(text), _TRAFFIC.findall(text)
    if not cycles or not traffic:
        raise CompileError(f"{path} has no total of cycles and bytes: the compiler did not finish it")
    # One summary a static part of the net; ours have one.
    read, written, copied = (sum(int(row[i]) for row in traffic) for i in range(3))
    timeline = read_timeline(path) if len(cycles) == 1 else Timeline(0, (), {})
    if not timeline.commands:
        return Profile(sum(map(int, cycles)), read, written, copied)
    return Profile(
        timeline.cycles,
        read,
        written,
        copied,
        timeline.cycles - timeline.bus_busy,
        {str(part): count for part, count in timeline.cycles_by_part().items()},
        {str(part): count for part, count in timeline.bytes_by_part().items()},
    )
