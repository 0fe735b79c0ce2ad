"""The three standard streams: UTF-8 whatever the locale, text that is safe to show, notes."""

import io
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from bmqwen.errors import InputError, StorageError

STDERR = Console(stderr=True, highlight=False)

_SHOW_CURSOR = b"\x1b[?25h"

# The terminal's own mode, while `held_keys` has changed it.
_own_modes: list[list[Any]] = []

# Control characters but tab and newline: a model's answer must not be able to steer the terminal.
_UNSAFE = dict.fromkeys(code for code in (*range(32), *range(0x7F, 0xA0)) if code not in (9, 10))


def use_utf8() -> None:
    """Read and write UTF-8 whatever the locale says, so that Chinese and emoji never fail."""
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


def hush_stdout() -> None:
    """Send stdout nowhere: what is still in its buffer would fail again, loudly, when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def can_edit() -> bool:
    """Whether a line can be edited on this terminal: its cursor moves, and somebody sees it."""
    if os.environ.get("TERM", "dumb") in ("", "dumb") or sys.stdin is None or not sys.stdin.isatty():
        return False
    return sys.stdout.isatty() or sys.stderr.isatty()


@contextmanager
def held_keys() -> Iterator[None]:
    """Keep what is typed while the model is busy for the next prompt, instead of showing it amid an answer."""
    if not can_edit():
        yield
        return
    handle = sys.stdin.fileno()
    mode = termios.tcgetattr(handle)
    _own_modes.append(list(mode))
    mode[0] &= ~termios.ICRNL  # Enter stays apart from Ctrl-J
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(handle, termios.TCSANOW, mode)
    try:
        yield
    finally:
        _restore_mode()


def _restore_mode() -> None:
    while _own_modes:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, _own_modes.pop())


def restore_terminal() -> None:
    """Undo what `held_keys` and a bar did to the terminal, before the program leaves at once. For any thread."""
    _restore_mode()
    if STDERR.is_terminal and not STDERR.is_dumb_terminal:
        os.write(2, _SHOW_CURSOR)


def put(text: str) -> None:
    """Write to stdout at once. Raises BrokenPipeError if nobody reads, StorageError if the disk is full."""
    try:
        sys.stdout.write(text.translate(_UNSAFE) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        hush_stdout()
        raise StorageError(f"the output cannot be written: {error.strerror}") from error


def note(line: str, *, dim: bool = True) -> None:
    """A line on stderr, dim where the terminal can."""
    style = "dim" if dim and not os.environ.get("NO_COLOR") else ""
    STDERR.print(Text(line.translate(_UNSAFE), style=style), soft_wrap=True)


def complain(error: Exception) -> None:
    """An error as one line on stderr."""
    note("bmqwen: " + " ".join(str(error).split()), dim=False)


def read_stdin() -> str:
    """All of stdin. Raises InputError if it is closed or not UTF-8."""
    if sys.stdin is None:
        raise InputError("there is no stdin to read from: give the question with -p")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"stdin cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"stdin is not UTF-8 text (line {line:,}, byte {error.start + 1:,}): convert it first, "
            "for example with `iconv -f GB18030 -t UTF-8`"
        ) from None


def argument_text(text: str, name: str) -> str:
    """A command line's text as UTF-8, whatever encoding the locale names. Raises InputError if it is none."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InputError(f"{name} is not UTF-8 text") from None
        return text
