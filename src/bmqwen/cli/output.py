"""What the commands print: progress, notes, tables, JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bmqwen.cli.terminal import STDERR, put


class Bar:
    """Shows a `bmqwen.util.progress.Progress` on stderr: a bar on a terminal, else a line a stretch.

    With `sizes` what is counted is shown, as bytes.
    """

    def __init__(self, *, sizes: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            *([DownloadColumn()] if sizes else []),
            TimeRemainingColumn(),
            console=STDERR,
            transient=True,
            disable=not STDERR.is_terminal,
        )
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """Show a new stretch in place of the one before."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(label, total=total)
        if not STDERR.is_terminal:
            STDERR.print(f"{label} ...", markup=False, soft_wrap=True)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        STDERR.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        self._progress.stop()

    def open(self) -> None:
        """Put the bar on the screen."""
        self._progress.start()


@contextmanager
def progress_bar(*, sizes: bool = True) -> Iterator[Bar]:
    """A Bar for the time of the body."""
    bar = Bar(sizes=sizes)
    bar.open()
    try:
        yield bar
    finally:
        bar.close()


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    put(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def size_text(count: float) -> str:
    """Bytes in words: "491 MB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
