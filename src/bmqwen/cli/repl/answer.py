"""One question, one answer."""

import signal
import sys
from functools import partial

import typer

from bmqwen.cli.output import print_json
from bmqwen.cli.repl.stream_view import print_end, stream
from bmqwen.cli.terminal import note, put
from bmqwen.generate.conversation import Conversation


def answer_once(conversation: Conversation, prompt: str, *, json: bool, name: str, model: str) -> None:
    """Print the answer to `prompt` as it comes, and what it cost on stderr; with `json` one document at the end.

    `name` is the engine's and `model` the model's, for the document. Leaves with 130 if Ctrl-C stopped the answer.
    Raises what `Conversation.reply` raises.
    """
    conversation.on_drop = drop_note
    if json:
        completion = stream(partial(conversation.reply, prompt), show=lambda _: None)
        usage = completion.usage
        print_json(
            {
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "first_token_s": round(usage.first_token_s, 4),
                    "tokens_per_s": round(usage.tokens_per_s, 2),
                },
                "engine": name,
                "model": model,
            }
        )
        sys.stdout.flush()
    else:
        completion = stream(partial(conversation.reply, prompt), show=put)
        print_end(completion, conversation.params.max_tokens)
    if completion.finish_reason == "cancelled":
        raise typer.Exit(128 + signal.SIGINT)


def drop_note(count: int) -> None:
    """Tell the user that the model no longer sees the oldest turns."""
    what = "oldest turn no longer fits" if count == 1 else f"{count} oldest turns no longer fit"
    note(f"the {what} into the context: the model answers without")
