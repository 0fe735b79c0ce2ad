"""How many nets are compiled at a time, the threads that do it, and how far they are."""

import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from bmqwen.chip.system import System
from bmqwen.errors import InputError
from bmqwen.util.progress import Progress
from bmqwen.util.text import counted, duration_text, size_text

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
TICK_SECONDS = 0.5
# A net that takes longer than expected is shown as nearly done.
NEARLY = 0.95


class NetClock:
    """Tells a Progress, in seconds of work, what a row of nets has behind it and before it.

    All calls come from one thread.
    """

    def __init__(self, total: int, jobs: int, expected: float, progress: Progress) -> None:
        """Start with nothing done of `total` nets; `expected` seconds a net, until one is measured."""
        self.jobs = jobs
        self._total, self._progress = total, progress
        self._seconds: list[float] = []
        self._expected = expected
        self._running: dict[Hashable, float] = {}
        self._done = 0
        self._begun = False
        # The bar's own idea of a net: it changes only when the bar starts again.
        self._unit = expected

    def reused(self, shape: Hashable, seconds: float) -> None:
        """Count a net of an earlier run, in which it took so long."""
        self._done += 1
        self._seconds.append(seconds)
        self._progress.note(f"{shape}: compiled by an earlier run ({self._done} of {self._total})")

    def started(self, shape: Hashable) -> None:
        """Count a net that is in the compiler's hands; with the first, say how long all of them take."""
        if not self._begun:
            self._begun = True
            left = self._total - self._done
            several = f", {self.jobs} at a time" if min(self.jobs, left) > 1 else ""
            self._progress.note(
                f"{counted(left, 'net')} to compile{several}: about {duration_text(self.seconds_left)}"
            )
        self._running[shape] = time.monotonic()
        self._unit = max(1.0, self.net_seconds)
        self._progress.start(f"compiling {', '.join(map(str, self._running))}", int(self._total * self._unit))
        self.tick()

    def finished(self, shape: Hashable) -> None:
        """Count a compiled net."""
        seconds = time.monotonic() - self._running.pop(shape)
        self._seconds.append(seconds)
        self._done += 1
        left = f", about {duration_text(self.seconds_left)} left" if self._done < self._total else ""
        self._progress.note(
            f"{shape}: compiled in {duration_text(seconds)} ({self._done} of {self._total}{left})"
        )

    def tick(self) -> None:
        """Move the bar."""
        self._progress.advance(int(self._done * self._unit + self._under_way(self._unit)))

    @property
    def net_seconds(self) -> float:
        """What a net takes, as far as is known."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else self._expected

    @property
    def seconds_left(self) -> float:
        """Until the last net is compiled, about."""
        one = self.net_seconds
        left = (self._total - self._done) * one - self._under_way(one)
        return left / min(self.jobs, max(1, self._total - self._done))

    def _under_way(self, one: float) -> float:
        """Seconds that the running nets have behind them, if a net takes `one`."""
        now = time.monotonic()
        return sum(min(now - start, NEARLY * one) for start in self._running.values())


def run_nets(shapes: Sequence[K], work: Callable[[K, threading.Event], R], clock: NetClock) -> dict[K, R]:
    """Call `work` for every shape in order, as many at a time as the clock says; return the results by shape.

    `work` gets an event that is set when it is to stop: after the first failure, or on Ctrl-C. What it then raises
    is dropped; the failure itself is raised when all have stopped.
    """
    results: dict[K, R] = {}
    waiting = list(shapes)
    running: dict[Future[R], K] = {}
    cancelled = threading.Event()
    with ThreadPoolExecutor(clock.jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < clock.jobs:
                    shape = waiting.pop(0)
                    running[pool.submit(work, shape, cancelled)] = shape
                    clock.started(shape)
                done, _ = wait(running, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    shape = running.pop(future)
                    results[shape] = future.result()
                    clock.finished(shape)
                clock.tick()
        finally:
            cancelled.set()
    return results


def parallel_jobs(needed: int, nets: int, asked: int | None, available: int | None = None) -> int:
    """Return how many of `nets` to compile at a time: what memory allows, at most one for each processor.

    One compiler needs so many bytes of what is `available` (None: what this machine has free now). What the user has
    `asked` for is taken as it is. Raises InputError if not even one compiler has room.
    """
    free = available_memory() if available is None else available
    if asked is None and nets and free < needed:
        raise InputError(
            f"compiling needs about {size_text(needed)} of this machine's memory, and {size_text(free)} "
            "are free: choose a smaller --quant or a larger machine, or try it all the same with --jobs 1"
        )
    wanted = min(len(os.sched_getaffinity(0)), free // needed) if asked is None else asked
    return max(1, min(wanted, nets))


def available_memory() -> int:
    """Return the bytes that new processes can take without swapping, by the kernel and the control group's limit."""
    system, free = System(), 4 << 30
    for line in (system.text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    limit, used = (system.text(f"/sys/fs/cgroup/memory.{name}") or "" for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    return max(free, 0)
