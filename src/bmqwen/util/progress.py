"""How a long piece of work reports its progress to its caller."""

from collections.abc import Callable
from typing import Protocol

Report = Callable[[int], None]
"""Receives the number of bytes of a file that are there."""


class Progress(Protocol):
    """Receives the state of a download. All calls come from the thread that asked for the work."""

    def start(self, label: str, total: int | None) -> None:
        """A new stretch of work begins, of `total` bytes where that is known; the previous one is over."""

    def advance(self, done: int) -> None:
        """`done` bytes of the stretch are there now, those of an earlier run included. May go back."""

    def note(self, text: str) -> None:
        """Something that a person should read once: a wait, a change to another source."""


class Silent:
    """A Progress that shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def counting(progress: Progress, label: str, total: int) -> Callable[[int], None]:
    """Return a function that takes how much more is done and reports the sum.

    The stretch starts with the first of it, so that nothing is shown where nothing is to be done.
    """
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        if count:
            if not done:
                progress.start(label, total)
            done += count
            progress.advance(done)

    return advance
