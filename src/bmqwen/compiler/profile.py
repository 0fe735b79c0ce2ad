"""What the compiler says of a net's time on the chip, and of the memory traffic that it is made of."""

import re
from dataclasses import dataclass
from pathlib import Path

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
    """

    cycles: int
    bytes_read: int
    bytes_written: int
    bytes_copied: int


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
    return Profile(sum(map(int, cycles)), read, written, copied)
