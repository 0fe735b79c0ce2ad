"""Where a conversation's lines come from when there is no terminal to edit them on."""

import sys
from typing import Protocol


class Interrupted(Exception):  # noqa: N818 - a key press, not an error
    """Ctrl-C at the prompt. `had_text`: there was something to clear."""

    def __init__(self, had_text: bool) -> None:
        super().__init__()
        self.had_text = had_text


class LineSource(Protocol):
    """Hands out what is entered."""

    def read(self, prompt: str, default: str = "") -> str:
        """One line, or several where the source can edit them; `default` is there to begin with, if it can.

        Raises EOFError at the end, Interrupted for Ctrl-C.
        """


class Script(LineSource):
    """Lines of a text, as if they were typed."""

    def __init__(self, text: str) -> None:
        self._lines = iter(text.splitlines())

    def read(self, prompt: str, default: str = "") -> str:  # noqa: ARG002
        """The next line."""
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


class PlainTerminal(LineSource):
    """A terminal that cannot move its cursor (TERM=dumb): the prompt is printed, the line comes as it is."""

    def read(self, prompt: str, default: str = "") -> str:  # noqa: ARG002
        """The next line."""
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
