"""The machine and the moment of a measurement."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bmqwen.util.text import size_text

# What the engines' inner loops have code for.
_FLAGS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that decide how fast a CPU engine is.

    Attributes:
        cpu: the processor's name.
        cores: cores that this process may use.
        flags: those of its instruction sets that matter here.
        memory_bytes: all of the machine.
        load: processes that wanted to compute during the minute before; above 0 others disturbed.
        date: UTC, ISO 8601.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_bytes: int
    load: float
    system: str
    python: str
    date: str

    @classmethod
    def here(cls) -> "Machine":
        """This machine, now (Linux)."""
        facts: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        known = set(facts.get("flags", facts.get("Features", "")).split())
        return cls(
            cpu=facts.get("model name", platform.machine()),
            cores=len(os.sched_getaffinity(0)),
            flags=tuple(flag for flag in _FLAGS if flag in known),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            load=os.getloadavg()[0],
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            date=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        )

    def text(self) -> str:
        """One line."""
        flags = ", ".join(self.flags) or "no known instruction sets"
        return (
            f"{self.cpu}, {self.cores} cores ({flags}), {size_text(self.memory_bytes)}, {self.system}, "
            f"Python {self.python}, {self.date}, load average before: {self.load:.2f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
