"""Answers in OpenAI's shapes."""

import json
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from bmqwen.generate.params import Completion, TokenLogprob
from bmqwen.serve.service import now

Kind = Literal["chat.completion", "text_completion"]
_PREFIX = {"chat.completion": "chatcmpl-", "text_completion": "cmpl-"}


class Totals:
    """Tokens and times of all choices of one request."""

    def __init__(self) -> None:
        self._completions: list[Completion] = []
        self._queue_s = 0.0

    def add(self, completion: Completion, queue_s: float) -> None:
        """Count a choice."""
        self._completions.append(completion)
        self._queue_s += queue_s

    def bodies(self, prompts: int) -> dict[str, Any]:
        """`usage` as OpenAI has it, where each of the first `prompts` prompts counts once, and our `timings`."""
        usages = [completion.usage for completion in self._completions]
        per_prompt = max(1, len(usages) // prompts)
        first = usages[::per_prompt]
        prompt = sum(usage.prompt_tokens for usage in first)
        cached = sum(usage.cached_tokens for usage in first)
        answer = sum(usage.completion_tokens for usage in usages)
        seconds = sum(usage.decode_s for usage in usages)
        decoded = sum(max(0, usage.completion_tokens - 1) for usage in usages)
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "total_tokens": prompt + answer,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
            "timings": {
                "first_token_s": round(usages[0].first_token_s, 6) if usages else None,
                "tokens_per_s": round(decoded / seconds, 3) if seconds else 0.0,
                "prompt_tokens": prompt,
                "cached_tokens": cached,
                "queue_s": round(self._queue_s, 6),
            },
        }

    def note(self) -> str:
        """For the log."""
        usages = [completion.usage for completion in self._completions]
        return f"{sum(u.prompt_tokens for u in usages)}+{sum(u.completion_tokens for u in usages)} tokens"


class Envelope:
    """The fields that all parts of one answer share."""

    def __init__(self, kind: Kind, model: str, fingerprint: str, *, stream: bool, with_usage: bool) -> None:
        name = f"{kind}.chunk" if stream and kind == "chat.completion" else kind
        self._fields = {
            "id": _PREFIX[kind] + secrets.token_hex(12),
            "object": name,
            "created": now(),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._head = (
            b"data: "
            + json.dumps(self._fields, separators=(",", ":")).encode()[:-1]
            + b',"choices":[{"index":'
        )
        self._tail = (b'}],"usage":null}' if with_usage else b"}]}") + b"\n\n"
        self._chat = kind == "chat.completion"

    def whole(self, choices: Sequence[Any], rest: dict[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed, or a stream's last event."""
        return {**self._fields, "choices": choices, **rest}

    def event(self, index: int, delta: Any, logprobs: Any = None, finish: str | None = None) -> bytes:
        """A stream's event for one choice; made by hand, as there is one for each token."""
        name = b',"delta":' if self._chat else b',"text":'
        return b"".join(
            (
                self._head,
                str(index).encode(),
                name,
                _json(delta),
                b',"logprobs":',
                b"null" if logprobs is None else _json(logprobs),
                b',"finish_reason":',
                b"null" if finish is None else _json(finish),
                self._tail,
            )
        )


def chat_logprobs(items: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities as chat completions have them."""
    return {
        "content": [{**_token(item), "top_logprobs": [_token(top) for top in item.top]} for item in items],
        "refusal": None,
    }


def text_logprobs(items: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Log-probabilities as completions have them; `offset` is where the text of the first token begins."""
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item.text)
    return {
        "tokens": [item.text for item in items],
        "token_logprobs": [item.logprob for item in items],
        "top_logprobs": [{top.text: top.logprob for top in item.top} for item in items],
        "text_offset": offsets,
    }


def _token(item: TokenLogprob) -> dict[str, Any]:
    return {"token": item.text, "logprob": item.logprob, "bytes": list(item.data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
