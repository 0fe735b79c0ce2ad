"""What a request gets where it says nothing, and how much it may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bmqwen.errors import RequestError
from bmqwen.generate.grammar import schema_text
from bmqwen.generate.params import SamplingParams
from bmqwen.serve.http.protocol import (
    ChatRequest,
    CompletionRequest,
    JsonSchemaFormat,
    ResponseFormat,
    TextFormat,
)

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling of an answer for which a request leaves it open. The numbers are what Qwen publishes for its models."""

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 4096

    @classmethod
    def of_model(cls, generation_config: Mapping[str, Any], chosen: Mapping[str, Any]) -> "Defaults":
        """What the user chose, else what the model's generation_config.json says, else the class's own.

        Raises InputError for values out of range.
        """
        values = {
            name: generation_config[name]
            for name in _SAMPLING
            if isinstance(generation_config.get(name), (int, float))
        }
        if generation_config.get("do_sample") is False:
            values["temperature"] = 0.0
        values |= {name: value for name, value in chosen.items() if value is not None}
        found = cls(**values)
        SamplingParams(**found.to_dict())
        return found

    def to_dict(self) -> dict[str, Any]:
        """Names and values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be at most, checked before any work is done for it."""

    body_bytes: int = 4 << 20
    messages: int = 1024
    characters: int = 1_000_000
    queue: int = 128
    seconds: float = 600.0

    def to_dict(self) -> dict[str, Any]:
        """Names and values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def chat_params(request: ChatRequest, defaults: Defaults, vocab_size: int) -> SamplingParams:
    """A chat request's sampling. Raises InputError for values that do not fit together."""
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", "top_logprobs")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise RequestError("max_tokens and max_completion_tokens mean the same: leave one out", "max_tokens")
    return _params(
        request,
        defaults,
        vocab_size,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def completion_params(request: CompletionRequest, defaults: Defaults, vocab_size: int) -> SamplingParams:
    """A completion request's sampling. Raises InputError for values that do not fit together."""
    return _params(
        request, defaults, vocab_size, max_tokens=request.max_tokens or 16, logprobs=request.logprobs
    )


def _params(
    request: ChatRequest | CompletionRequest,
    defaults: Defaults,
    vocab_size: int,
    *,
    max_tokens: int | None,
    logprobs: int | None,
) -> SamplingParams:
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream to be true", "stream_options")
    bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    if bias and max(bias) >= vocab_size:
        raise RequestError(
            f"logit_bias names token {max(bias)}, but the last one is {vocab_size - 1}", "logit_bias"
        )
    given = {name: getattr(request, name) for name in _SAMPLING}
    stop = request.stop or ()
    return SamplingParams(
        **(defaults.to_dict() | {name: value for name, value in given.items() if value is not None})
        | {"max_tokens": max_tokens or defaults.max_tokens},
        logit_bias=bias,
        seed=None if request.seed is None else request.seed % 2**64,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=logprobs,
        json_schema=_schema(request.response_format),
    )


def _schema(form: ResponseFormat | None) -> str | None:
    if form is None or isinstance(form, TextFormat):
        return None
    return schema_text(form.json_schema.schema_ if isinstance(form, JsonSchemaFormat) else {"type": "object"})
