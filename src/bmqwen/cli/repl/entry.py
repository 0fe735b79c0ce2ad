'''What a user enters: a message, a command, or a block between lines of """.'''

import re
from collections.abc import Callable
from dataclasses import dataclass

from bmqwen.errors import InputError

QUOTES = '"""'
_OPENING = re.compile(rf"\s*(?P<head>/(?:system|edit[ \t]+\d{{1,9}})[ \t]+)?{QUOTES}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A command with its argument, or a message: then `command` is empty and `text` what is sent."""

    command: str
    text: str


def is_open(text: str) -> bool:
    """Whether text opens a block that it does not close: Enter then starts a new line."""
    opening = _OPENING.match(text)
    return opening is not None and _content(text[opening.end() :]) is None


def read(line: Callable[[], str], more: Callable[[], str]) -> str:
    """One entry: a line, and as many more as its block takes.

    Raises what the two raise, but InputError for an end inside of a block.
    """
    text = line()
    try:
        while is_open(text):
            text += "\n" + more()
    except EOFError:
        raise InputError(f"the text ends inside of a block: close it with a line of {QUOTES}") from None
    return text


def parse(text: str) -> Entry:
    """Take an entry apart. `//` at its start stands for a message's own slash."""
    opening = _OPENING.match(text)
    if opening is not None:
        return parse_head(opening["head"], unwrap(text))
    text = text.strip()
    if text.startswith("//"):
        return Entry("", text[1:])
    if text.startswith("/"):
        return parse_head(text, "")
    return Entry("", text)


def parse_head(head: str | None, content: str) -> Entry:
    """`/command` with what follows it, then a block's content; no head: a message."""
    if head is None:
        return Entry("", content)
    command, *rest = head.split(maxsplit=1)
    return Entry(command, "".join([*rest, content]))


def unwrap(text: str) -> str:
    """A block's content, or text that is no block as it is."""
    opening = _OPENING.match(text)
    content = None if opening is None else _content(text[opening.end() :])
    return text.strip() if content is None else content


def _content(text: str) -> str | None:
    """What stands between the quotes; None before they are closed.

    Opened on a line of their own they are closed so too, so that code with docstrings can stand between them.
    """
    first, newline, rest = text.partition("\n")
    if first.strip():
        closed = text.rstrip()
        return closed[: -len(QUOTES)].rstrip("\n") if closed.endswith(QUOTES) else None
    *content, last = rest.split("\n")
    return "\n".join(content) if newline and last.rstrip() == QUOTES else None
