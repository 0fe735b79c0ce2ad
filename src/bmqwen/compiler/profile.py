"""What the compiler says of a net's time on the chip, and of the memory traffic that it is made of."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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

        first, second = asdict(self), asdict(longer)
        values = {
            name: {part: line(value[part], second[name].get(part, value[part])) for part in value}
            if isinstance(value, dict)
            else line(value, second[name])
            for name, value in first.items()
        }
        return Profile(**values)

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "Profile":
        """From what `dataclasses.asdict` made, other keys ignored. Raises KeyError, TypeError or ValueError."""
        numbers = [
            int(stated[name]) for name in ("cycles", "bytes_read", "bytes_written", "bytes_copied")
        ]
        parts = [{str(k): int(v) for k, v in stated.get(f"part_{what}", {}).items()} for what in ("cycles", "bytes")]
        return cls(*numbers, int(stated.get("bus_idle", 0)), *parts)


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
