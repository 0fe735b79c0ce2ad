"""Notices an engine that does not come back: one that is silent while it loads, or when an answer is to end."""

from collections.abc import Callable
from typing import Any

# A server that was itself stopped for a while (Ctrl-Z, a sleeping machine) misses one part at most.
PARTS = 10


class Watchdog:
    """Waits for an engine in parts of a span of time; any sign of life restarts the span.

    Silence counts, not the time that the engine takes: it may have hundreds of launches before it.
    """

    def __init__(
        self,
        seconds: float,
        bark: Callable[[], None],
        later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        """`bark` is called after `seconds` of silence, once; `later` is `loop.call_later`, or a test's."""
        self._part, self._bark, self._later = seconds / PARTS, bark, later
        self._silent = 0
        self._timer: Any = None

    def start(self) -> None:
        """Begin to wait, unless it waits already."""
        if self._timer is None:
            self._silent = 0
            self._timer = self._later(self._part, self._passed)

    def heard(self) -> None:
        """Note a sign of life."""
        self._silent = 0

    def stop(self) -> None:
        """Stop waiting: the engine came back, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> None:
        self._silent += 1
        self._timer = None if self._silent >= PARTS else self._later(self._part, self._passed)
        if self._timer is None:
            self._bark()
