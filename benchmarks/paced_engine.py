"""An engine's process whose steps take as long as a slower one's.

Many of them share a processor and do not disturb each other: a fleet of them measures the router and the queues.
It stands in for `bmqwen.serve.pool.engine_process`.

PACE is "READ_RATE STEP_SECONDS": prompt tokens a second, and what a step takes that writes a token of each answer.
"""

import os
import sys
import time
from typing import Any

from bmqwen.runtime import registry
from bmqwen.serve.pool import engine_process


class Paced:
    """A runtime that waits after each step."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        read_rate, step_s = os.environ["PACE"].split()
        self._read_rate, self._step_s = float(read_rate), float(step_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, feeds: Any) -> Any:
        """Compute, and wait for the rest of the time."""
        begin = time.perf_counter()
        output = self._runtime.step(feeds)
        read = sum(len(feed.tokens) for feed in feeds if len(feed.tokens) > 1)
        takes = read / self._read_rate + self._step_s * any(len(feed.tokens) == 1 for feed in feeds)
        time.sleep(max(0.0, takes - (time.perf_counter() - begin)))
        return output


def main() -> None:
    """Run an engine's process."""
    open_runtime = registry.open_runtime
    registry.open_runtime = lambda *arguments: Paced(open_runtime(*arguments))
    engine_process.main(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
