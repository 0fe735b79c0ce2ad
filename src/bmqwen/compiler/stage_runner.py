"""Compiles a row of stages in threads, and ends the compilers when the work is interrupted."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from bmqwen.compiler.stage_clock import StageClock

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
TICK_SECONDS = 0.5


def run_stages(
    shapes: Sequence[K],
    work: Callable[[K, threading.Event], R],
    jobs: int,
    clock: StageClock,
) -> dict[K, R]:
    """Call `work` for every shape, `jobs` at a time, in order; the results by shape.

    `work` gets an event that is set when it is to stop: after the first failure, or on Ctrl-C. What it then raises
    is dropped; the failure itself is raised when all have stopped.
    """
    results: dict[K, R] = {}
    waiting = list(shapes)
    running: dict[Future[R], K] = {}
    cancelled = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
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
