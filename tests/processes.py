"""Whether processes that tests started, or that what they started did, are still there."""

import time
from pathlib import Path


def state_of(pid: int) -> str:
    """One letter, as `ps` has it: "T" is stopped, "Z" has ended and is nobody's; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    return state_of(pid) not in ("", "Z")


def wait_for_end(pid: int, seconds: float = 20) -> None:
    """Wait for a process that must end."""
    deadline = time.monotonic() + seconds
    while runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
