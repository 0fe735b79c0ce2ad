"""Processes that tests started, or that what they started did: whether they are still there, and Ctrl-C in this one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def interrupted(seconds: float = 0.2) -> Iterator[None]:
    """Have the body, which takes longer, end in a KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
