"""How far a compilation is, and how long it will take: told from the stages that are done."""

import time
from collections.abc import Hashable

from bmqwen.util.progress import Progress

# A running stage that takes longer than expected is shown as nearly done.
NEARLY = 0.95


class StageClock:
    """Tells a Progress, in seconds of work, what a row of stages has behind it and before it.

    All calls come from one thread.
    """

    def __init__(self, total: int, jobs: int, expected: float, progress: Progress) -> None:
        """Start with nothing done.

        Args:
            total: stages in all.
            jobs: how many run at a time.
            expected: seconds of a stage, until one is measured.
            progress: whom to tell.
        """
        self._total, self._jobs, self._progress = total, jobs, progress
        self._seconds: list[float] = []
        self._expected = expected
        self._running: dict[Hashable, float] = {}
        self._done = 0
        # The bar's own idea of a stage: it changes only when the bar starts anew.
        self._unit = expected

    def reused(self, shape: Hashable, seconds: float) -> None:
        """A stage is there from an earlier run, in which it took so long."""
        self._done += 1
        self._seconds.append(seconds)
        self._progress.note(f"{shape}: compiled by an earlier run ({self._done} of {self._total})")

    def started(self, shape: Hashable) -> None:
        """A stage is in the compiler's hands."""
        self._running[shape] = time.monotonic()
        names = ", ".join(map(str, self._running))
        self._unit = max(1.0, self.stage_seconds)
        self._progress.start(f"compiling {names}", int(self._total * self._unit))
        self.tick()

    def finished(self, shape: Hashable) -> None:
        """A stage is compiled."""
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
    def stage_seconds(self) -> float:
        """What a stage takes, as far as is known."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else self._expected

    @property
    def seconds_left(self) -> float:
        """Until the last stage is compiled, about."""
        one = self.stage_seconds
        left = (self._total - self._done) * one - self._under_way(one)
        return left / min(self._jobs, max(1, self._total - self._done))

    def _under_way(self, one: float) -> float:
        """Seconds that the running stages have behind them, if a stage takes `one`."""
        now = time.monotonic()
        return sum(min(now - start, NEARLY * one) for start in self._running.values())


def duration_text(seconds: float) -> str:
    """Seconds in words: "45 s", "3 min 20 s"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds / 10) * 10, 60)
    return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
