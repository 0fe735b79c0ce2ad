"""What a request gets where it says nothing, and how much it may ask for."""

from dataclasses import dataclass, replace
from typing import Any

from bmqwen.errors import RequestError
from bmqwen.generate.json_schema import held_schema
from bmqwen.generate.params import PARAMETERS, SamplingParams, choose_params
from bmqwen.serve.http.fields import named_once
from bmqwen.serve.http.protocol import (
    ChatRequest,
    CompletionRequest,
    InfillRequest,
    JsonSchemaFormat,
    LlamaCppCompletionRequest,
    TextFormat,
)
from bmqwen.serve.http.tools import rules_of


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be at most, checked before any work is done for it."""

    body_bytes: int = 4 << 20
    messages: int = 1024
    characters: int = 1_000_000
    queue: int = 128
    seconds: float = 600.0


def sampling_of(
    request: ChatRequest | CompletionRequest | InfillRequest, defaults: SamplingParams, vocab_size: int
) -> SamplingParams:
    """Return a request's sampling; the default's time limit is for answers without a limit of their own.

    Raises InputError for values that do not fit together.
    """
    given = _given(request)
    if isinstance(request, CompletionRequest):
        # OpenAI's default; with llama.cpp's there is no limit, which is the server's own here.
        limit = {} if isinstance(request, LlamaCppCompletionRequest) else {"max_tokens": 16}
        given = limit | {"logprobs": request.logprobs, "echo": bool(request.echo)} | given
    elif isinstance(request, ChatRequest):
        if request.top_logprobs is not None and not request.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", "top_logprobs")
        given["logprobs"] = (request.top_logprobs or 0) if request.logprobs else None
        given["tools"] = rules_of(request.tools, request.tool_choice, request.parallel_tool_calls)
    bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    if bias and max(bias) >= vocab_size:
        raise RequestError(
            f"logit_bias names token {max(bias)}, but the last one is {vocab_size - 1}", "logit_bias"
        )
    form, schema = request.response_format, None
    if form is not None and not isinstance(form, TextFormat):
        wanted = form.json_schema.schema_ if isinstance(form, JsonSchemaFormat) else form.schema_
        schema = held_schema({"type": "object"} if wanted is None else wanted, "response_format")
    if "max_tokens" in given:
        defaults = replace(defaults, seconds=None)
    # vLLM's name for it and DashScope's.
    switch = (getattr(request, "chat_template_kwargs", None) or {}).get("enable_thinking")
    if switch is not None:
        given["enable_thinking"] = switch
    return choose_params(defaults, given | {"logit_bias": bias, "json_schema": schema})


def _given(request: ChatRequest | CompletionRequest | InfillRequest) -> dict[str, Any]:
    """Return the sampling parameters that a request has, by whatever name, as `SamplingParams` wants them."""
    rows = [row for row in PARAMETERS if isinstance(request, ChatRequest) or not row.chat]
    given = {row.name: named_once(request, row) for row in rows}
    for row in rows:
        value = given[row.name]
        if value is None:
            del given[row.name]
        elif row.kind == "texts":
            given[row.name] = (value,) if isinstance(value, str) else tuple(value)
        elif row.wraps:
            given[row.name] = value % (row.high + 1)
    return given
