"""An answer on the screen: shown as it comes, stopped by Ctrl-C, followed by its numbers."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol

from bmqwen.cli.interrupts import stopped_by_ctrl_c
from bmqwen.cli.terminal import STDERR, note, put
from bmqwen.generate.params import Completion, Piece, Usage
from bmqwen.util.text import counted, speed_text

_WORTH_SHOWING = 64  # tokens to read; fewer are read before anyone could see how far it is
_ERASE_LINE = "\r\x1b[2K"


class Ask(Protocol):
    """A question ready to be asked: `Conversation.reply`, `regenerate` or `edit` with its text bound."""

    def __call__(
        self, *, on_prefill: Callable[[int, int], None], cancelled: Callable[[], bool]
    ) -> Generator[Piece, None, Completion]:
        """Start to answer."""


def stream(ask: Ask, show: Callable[[str], None] = put) -> Completion:
    """Ask, and show the answer as it comes, with a newline at its end.

    Ctrl-C ends it after the current step: finish_reason is then "cancelled". A second Ctrl-C raises Insisted.
    Raises what the question raises, and what `show` raises.
    """
    last = ""
    reading = _Reading()
    try:
        with (
            stopped_by_ctrl_c() as cancelled,
            closing(ask(on_prefill=reading, cancelled=cancelled)) as pieces,
        ):
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    completion: Completion = end.value
                    return completion
                if piece.text:
                    show(piece.text)
                    last = piece.text
    finally:
        reading.close()
        if last and not last.endswith("\n"):
            show("\n")


def stats_line(usage: Usage) -> str:
    """What an answer cost: "0.21 s to first token · 41.3 tokens/s · 31 prompt tokens (24 cached) · 57 out"."""
    seconds = usage.first_token_s
    parts = [
        f"{seconds:.2f} s to first token" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms to first token"
    ]
    if usage.tokens_per_s:
        parts.append(speed_text(usage.tokens_per_s))
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    parts += [f"{counted(usage.prompt_tokens, 'prompt token')}{cached}", f"{usage.completion_tokens:,} out"]
    return " · ".join(parts)


def print_end(completion: Completion, max_tokens: int | None) -> None:
    """Say on stderr how an answer ended and what it cost."""
    usage = completion.usage
    if completion.finish_reason == "cancelled":
        note("stopped" if completion.text else "stopped before the first word; the question was not kept")
    elif completion.finish_reason == "length":
        at_limit = max_tokens is not None and usage.completion_tokens >= max_tokens
        note(f"cut off: max_tokens is {max_tokens}" if at_limit else "cut off: the context is full")
    elif not completion.text.strip():
        note("the model gave an empty answer")
    if usage.completion_tokens:
        note(stats_line(usage))


class _Reading:
    """How far a long prompt is read: a line on stderr that goes away again; only on a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if done >= total:
            self.close()
        elif total >= _WORTH_SHOWING and STDERR.is_terminal and not STDERR.is_dumb_terminal:
            self._write(f"{_ERASE_LINE}reading {total:,} tokens: {100 * done // total}%")
            self._shown = True

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write(_ERASE_LINE)
            self._shown = False

    def _write(self, text: str) -> None:
        STDERR.file.write(text)
        STDERR.file.flush()
