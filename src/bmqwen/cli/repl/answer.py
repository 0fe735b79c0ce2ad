"""An answer on the screen: shown as it comes, stopped by Ctrl-C, followed by its numbers."""

import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TextIO

import typer

from bmqwen.cli.interrupts import stopped_by_ctrl_c
from bmqwen.cli.repl.prose import Prose, is_styled
from bmqwen.cli.terminal import STDERR, note, print_json, put, put_dim, safe
from bmqwen.generate.conversation import Conversation
from bmqwen.generate.params import Completion, Piece, Usage
from bmqwen.util.text import counted, speed_text

_WORTH_SHOWING = 64  # tokens to read; fewer are read before anyone could see how far it is
_PARAGRAPH = "\n\n"
_ERASE_LINE = "\r\x1b[2K"


# A question ready to be asked: `Conversation.reply`, `regenerate` or `edit` with its text bound.
Ask = Callable[..., Generator[Piece, None, Completion]]


def stream(
    ask: Ask, show: Callable[[str], None] | None = None, show_thought: Callable[[str], None] | None = None
) -> Completion:
    """Ask, and show the answer as it comes, with a newline at its end; thoughts before it, apart.

    Without `show` and `show_thought` they go to stdout and stderr, set for a terminal where that is one.
    Ctrl-C ends it after the current step: finish_reason is then "cancelled". A second Ctrl-C raises Insisted.
    Raises what the question raises, and what `show` raises.
    """
    show = show or _screen(sys.stdout, put)
    show_thought = show_thought or _screen(sys.stderr, put_dim)
    last, thought = "", ""
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
                if piece.kind == "thought":
                    show_thought(piece.text)
                    thought = piece.text
                elif piece.text:
                    if thought:
                        show_thought(_PARAGRAPH)
                        thought = ""
                    show(piece.text)
                    last = piece.text
    finally:
        reading.close()
        if thought:
            show_thought("\n")
        if last and not last.endswith("\n"):
            show("\n")
        for output in (show_thought, show):
            if isinstance(output, Prose):
                output.close()


def _screen(file: TextIO, write: Callable[[str], None]) -> Callable[[str], None]:
    """Return what shows text on a stream: as it is, or wrapped and styled on a terminal."""
    if not file.isatty():
        return write
    if write is put_dim:
        return Prose(write, styled=False)
    return Prose(partial(put, styled=True), styled=is_styled(), clean=safe)


def stats_line(usage: Usage) -> str:
    """Return what an answer cost: "0.21 s to first token · 41.3 tokens/s · 31 prompt tokens (24 cached) · 57 out"."""
    seconds = usage.first_token_s
    parts = [
        f"{seconds:.2f} s to first token" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms to first token"
    ]
    if usage.tokens_per_s:
        parts.append(speed_text(usage.tokens_per_s))
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    thinking = f" ({usage.reasoning_tokens:,} of thoughts)" if usage.reasoning_tokens else ""
    parts += [
        f"{counted(usage.prompt_tokens, 'prompt token')}{cached}",
        f"{usage.completion_tokens:,} out{thinking}",
    ]
    if usage.drafted_tokens:
        parts.append(f"{usage.accepted_tokens:,} of {usage.drafted_tokens:,} drafted right")
    return " · ".join(parts)


def print_end(completion: Completion, max_tokens: int | None) -> None:
    """Say on stderr how an answer ended and what it cost."""
    usage = completion.usage
    if completion.finish_reason == "cancelled":
        note("stopped" if completion.text else "stopped before the first word; the question was not kept")
    elif completion.finish_reason == "length":
        at_limit = max_tokens is not None and usage.completion_tokens >= max_tokens
        why = f"max_tokens is {max_tokens}" if at_limit else "the context is full"
        early = completion.thoughts and not completion.text
        note(f"cut off: {why}" + (", before the answer began: set a thinking_budget" if early else ""))
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


def answer_once(conversation: Conversation, prompt: str, *, json: bool, name: str, model: str) -> None:
    """Print the answer to `prompt` as it comes, and what it cost on stderr; with `json` one document at the end.

    `name` is the engine's and `model` the model's, for the document. Leaves with 130 if Ctrl-C stopped the answer.
    Raises what `Conversation.reply` raises.
    """
    conversation.on_drop = drop_note
    if json:
        completion = stream(
            partial(conversation.reply, prompt), show=lambda _: None, show_thought=lambda _: None
        )
        usage = completion.usage
        print_json(
            {
                "text": completion.text,
                **({"thoughts": completion.thoughts} if completion.thoughts else {}),
                "finish_reason": completion.finish_reason,
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "reasoning_tokens": usage.reasoning_tokens,
                    "drafted_tokens": usage.drafted_tokens,
                    "accepted_tokens": usage.accepted_tokens,
                    "first_token_s": round(usage.first_token_s, 4),
                    "tokens_per_s": round(usage.tokens_per_s, 2),
                },
                "engine": name,
                "model": model,
            }
        )
        sys.stdout.flush()
    else:
        completion = stream(partial(conversation.reply, prompt))
        print_end(completion, conversation.params.max_tokens)
    if completion.finish_reason == "cancelled":
        raise typer.Exit(128 + signal.SIGINT)


def drop_note(count: int) -> None:
    """Tell the user that the model no longer sees the oldest turns."""
    what = "oldest turn no longer fits" if count == 1 else f"{count} oldest turns no longer fit"
    note(f"the {what} into the context: the model answers without {'it' if count == 1 else 'them'}")


def totals_line(usages: Sequence[Usage]) -> str:
    """Return "3 answers · 120 prompt tokens, of which 80 cached · 210 out · 41.2 tokens/s"."""
    cached = sum(usage.cached_tokens for usage in usages)
    parts = [
        counted(len(usages), "answer"),
        f"{counted(sum(usage.prompt_tokens for usage in usages), 'prompt token')}, of which {cached:,} cached",
        f"{sum(usage.completion_tokens for usage in usages):,} out",
    ]
    if drafted := sum(usage.drafted_tokens for usage in usages):
        parts.append(f"{sum(usage.accepted_tokens for usage in usages):,} of {drafted:,} drafted right")
    decoded = sum(max(0, usage.completion_tokens - 1) for usage in usages)
    seconds = sum(usage.decode_s for usage in usages)
    if decoded and seconds > 0:
        parts.append(speed_text(decoded / seconds))
    return " · ".join(parts)
