"""What a user enters: where its lines come from, and how they become a message or a command."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bmqwen.errors import InputError

QUOTES = '"""'
# What Qwen3 takes in a message as the wish that it thinks, or not.
_SWITCHES = ("/think ", "/no_think ")
_OPENING = re.compile(rf"\s*(?P<head>/(?:system|edit[ \t]+\d{{1,9}})[ \t]+)?{QUOTES}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A command with its argument, or a message: then `command` is empty and `text` what is sent."""

    command: str
    text: str


def is_open(text: str) -> bool:
    """Return whether text opens a block that it does not close: Enter then starts a new line."""
    opening = _OPENING.match(text)
    return opening is not None and _content(text[opening.end() :]) is None


def read(line: Callable[[], str], more: Callable[[], str]) -> str:
    """Read one entry: a line, and as many more as its block takes.

    Raises what the two raise, but InputError for an end inside of a block.
    """
    text = line()
    try:
        while is_open(text):
            text += "\n" + more()
    except EOFError:
        raise InputError(f"the text ends inside a block: close it with a line of {QUOTES}") from None
    return text


def parse(text: str) -> Entry:
    """Take an entry apart. `//` at its start stands for a message's own slash; Qwen3's switches are its own too."""
    opening = _OPENING.match(text)
    head, content = (text.strip(), "") if opening is None else (opening["head"] or "", unwrap(text))
    if head.startswith("//"):
        return Entry("", head[1:])
    if not head.startswith("/") or head.startswith(_SWITCHES):
        return Entry("", head + content)
    command, *rest = head.split(maxsplit=1)
    return Entry(command, "".join([*rest, content]))


def unwrap(text: str) -> str:
    """Return a block's content, or text that is no block as it is."""
    opening = _OPENING.match(text)
    content = None if opening is None else _content(text[opening.end() :])
    return text.strip() if content is None else content


def _content(text: str) -> str | None:
    """Return what stands between the quotes; None before they are closed.

    Opened on a line of their own they are closed so too, so that code with docstrings can stand between them.
    """
    first, newline, rest = text.partition("\n")
    if first.strip():
        closed = text.rstrip()
        return closed[: -len(QUOTES)].rstrip("\n") if closed.endswith(QUOTES) else None
    *content, last = rest.split("\n")
    return "\n".join(content) if newline and last.rstrip() == QUOTES else None


class Interrupted(Exception):  # noqa: N818 - a key press, not an error
    """Ctrl-C at the prompt. `had_text`: there was something to clear."""

    def __init__(self, had_text: bool) -> None:
        super().__init__()
        self.had_text = had_text


class LineSource(Protocol):
    """Hands out what is entered."""

    def read(self, prompt: str, default: str = "") -> str:
        """Read one line, or several where the source can edit them; `default` is there to begin with, if it can.

        Raises EOFError at the end, Interrupted for Ctrl-C.
        """


class Script(LineSource):
    """Lines of a text, as if they were typed."""

    def __init__(self, text: str) -> None:
        self._lines = iter(text.splitlines())

    def read(self, prompt: str, default: str = "") -> str:  # noqa: ARG002
        """Read the next line."""
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


class PlainTerminal(LineSource):
    """A terminal that cannot move its cursor (TERM=dumb): the prompt is printed, the line comes as it is."""

    def read(self, prompt: str, default: str = "") -> str:  # noqa: ARG002
        """Read the next line."""
        sys.stderr.write(prompt)
        sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            sys.stderr.write("\n")
            raise Interrupted(had_text=False) from None
        if not line:
            sys.stderr.write("\n")
            raise EOFError
        return line.rstrip("\r\n")
