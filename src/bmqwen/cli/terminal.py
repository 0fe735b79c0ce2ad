"""What the program reads and prints: the standard streams, notes, progress, tables, JSON."""

import io
import json
import os
import sys
import termios
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bmqwen.errors import InputError, StorageError

STDERR = Console(stderr=True, highlight=False)

_SHOW_CURSOR = b"\x1b[?25h"

# Columns of a terminal below which a cell of words is hard to read.
_LEAST_CELL = 16

# The terminal's own mode, while `keep_typeahead` has changed it.
_saved_modes: list[list[Any]] = []

# Control characters but tab and newline: a model's answer must not be able to steer the terminal.
_UNSAFE = dict.fromkeys(code for code in (*range(32), *range(0x7F, 0xA0)) if code not in (9, 10))


def use_utf8() -> None:
    """Read and write UTF-8 in any locale, so that Chinese and emoji never fail."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def open_streams() -> None:
    """Give standard streams that are closed the null device: else the next file to be opened would be one of them."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the program runs
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def discard_stdout() -> None:
    """Send stdout nowhere: what is still in its buffer would fail again, loudly, when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def can_edit() -> bool:
    """Return whether a line can be edited on this terminal: its cursor moves, and somebody sees it."""
    if os.environ.get("TERM", "dumb") in ("", "dumb") or sys.stdin is None or not sys.stdin.isatty():
        return False
    return sys.stdout.isatty() or sys.stderr.isatty()


@contextmanager
def keep_typeahead() -> Iterator[None]:
    """Keep what is typed while the model is busy for the next prompt, instead of showing it amid an answer."""
    if not can_edit():
        yield
        return
    handle = sys.stdin.fileno()
    mode = termios.tcgetattr(handle)
    _saved_modes.append(list(mode))
    mode[0] &= ~termios.ICRNL  # Enter stays apart from Ctrl-J
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(handle, termios.TCSANOW, mode)
    try:
        yield
    finally:
        _restore_mode()


def _restore_mode() -> None:
    while _saved_modes:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, _saved_modes.pop())


def restore_terminal() -> None:
    """Undo what `keep_typeahead` and a bar did to the terminal, before the program exits. For any thread."""
    _restore_mode()
    if STDERR.is_terminal and not STDERR.is_dumb_terminal:
        os.write(2, _SHOW_CURSOR)


def safe(text: str) -> str:
    """Return a text without what could steer the terminal."""
    return text.translate(_UNSAFE)


def put(text: str, *, styled: bool = False) -> None:
    """Write to stdout and flush it; `styled` text is safe already, and has colours of ours.

    Raises BrokenPipeError if nobody reads, StorageError if the disk is full.
    """
    try:
        sys.stdout.write(text if styled or not sys.stdout.isatty() else safe(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise StorageError(f"the output cannot be written: {error.strerror}") from error


def put_dim(text: str) -> None:
    """Write to stderr as it comes, dim where the terminal can: a model's thoughts, so that stdout has answers only."""
    style = "" if os.environ.get("NO_COLOR") else "dim"
    STDERR.print(Text(text.translate(_UNSAFE), style=style), soft_wrap=True, end="")
    STDERR.file.flush()


def note(line: str, *, dim: bool = True) -> None:
    """Print a line on stderr, dim where the terminal can."""
    style = "dim" if dim and not os.environ.get("NO_COLOR") else ""
    STDERR.print(Text(line.translate(_UNSAFE), style=style), soft_wrap=True)


def print_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    note("bmqwen: " + " ".join(str(error).split()), dim=False)


def read_stdin() -> str:
    """Read all of stdin. Raises InputError if it is closed or not UTF-8."""
    if sys.stdin is None:
        raise InputError("there is no stdin to read from: give the question with -p")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"stdin cannot be read: {error.strerror}") from error
    return _text(data, "stdin")


def read_file(path: Path) -> str:
    """Read a text file. Raises InputError if it cannot be read or is not UTF-8."""
    try:
        return _text(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} is not UTF-8 text (line {line:,}, byte {error.start + 1:,}): convert it first, "
            "for example with `iconv -f GB18030 -t UTF-8`"
        ) from None


def argument_text(text: str, name: str) -> str:
    """Return a command line's text as UTF-8 in any locale. Raises InputError if it is not valid."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InputError(f"{name} is not UTF-8 text") from None
        return text


class Bar:
    """Shows a `bmqwen.util.progress.Progress` on stderr: a bar on a terminal, else a line a stretch.

    With `sizes` what is counted is shown, as bytes.
    """

    def __init__(self, *, sizes: bool = True) -> None:
        self.progress = Progress(
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
            self.progress.remove_task(self._task)
        self._task = self.progress.add_task(label, total=total)
        if not STDERR.is_terminal:
            STDERR.print(f"{label} ...", markup=False, soft_wrap=True)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self.progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        STDERR.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        self.progress.stop()


@contextmanager
def progress_bar(*, sizes: bool = True) -> Iterator[Bar]:
    """Show a Bar while the body runs."""
    bar = Bar(sizes=sizes)
    with bar.progress:
        yield bar


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    put(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout whose second column has numbers.

    A terminal folds the last column to its width; one that leaves that too little gets each first cell, whole, on a
    line of its own, and the others below.
    """
    rows = [[safe(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        columns = Console(file=sys.stdout).width
        others = [max(map(cell_len, column)) + 1 for column in zip(*(head, *rows), strict=True)][:-1]
        if columns - sum(others) < _LEAST_CELL:
            for first, *rest in rows:
                below = ", ".join(filter(None, rest))
                lines = textwrap.wrap(below, columns - 2, break_long_words=False, break_on_hyphens=False)
                put("".join(f"{line}\n" for line in [first, *(f"  {line}" for line in lines)]))
            return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(head):
        last = place == len(head) - 1
        table.add_column(name, justify="right" if place == 1 else "left", overflow="fold", no_wrap=not last)
    for row in rows:
        table.add_row(*map(Text, row))
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, highlight=False, width=width).print(table)


def print_result(value: Any, lines: Iterable[object], *, as_json: bool) -> None:
    """Print a result on stdout: as one JSON document, or as lines for people."""
    if as_json:
        print_json(value)
    else:
        put("".join(f"{line}\n" for line in lines))
