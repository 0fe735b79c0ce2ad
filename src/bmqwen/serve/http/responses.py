"""The bodies of answers: the OpenAPI document describes them, and they are what is sent."""

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from bmqwen.generate.params import TokenLogprob, Words
from bmqwen.generate.params import Usage as AnswerUsage

Count = Annotated[int, Field(ge=0)]
Finish = Literal["stop", "length", "tool_calls"]


class ErrorDetails(TypedDict):
    """What went wrong: a sentence, a family, the field at fault, and a name for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(TypedDict):
    """Every error, in a stream too."""

    error: ErrorDetails


class AnthropicUnsupported(TypedDict):
    """What a client may leave out and ask again."""

    error_code: str
    unsupported: list[str]


class AnthropicErrorDetails(TypedDict):
    """What went wrong: a family and a sentence."""

    type: str
    message: str
    details: NotRequired[AnthropicUnsupported]


class AnthropicErrorAnswer(TypedDict):
    """Every error of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class OllamaErrorAnswer(TypedDict):
    """Every error of Ollama's API."""

    error: str


class TokenProbability(TypedDict):
    """A token, its natural log-probability and its bytes."""

    token: str
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class ChosenToken(TokenProbability):
    """The token of an answer, and the likeliest ones at its place."""

    top_logprobs: list[TokenProbability]


class ChatLogprobs(TypedDict):
    """Log-probabilities of an answer's tokens."""

    content: list[ChosenToken]
    refusal: None


class CalledFunction(TypedDict):
    """What is to be called, and the arguments as JSON."""

    name: str
    arguments: str


class AnswerCall(TypedDict):
    """A call of a tool, which the client is to run."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(TypedDict):
    """What the model thought and said; None if it only calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[AnswerCall]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class CachedTokens(TypedDict):
    """Tokens of the prompt that were cached."""

    cached_tokens: Count


class AnswerTokens(TypedDict):
    """Tokens of the answer that are thoughts, and those that were guessed, rightly or wrongly."""

    reasoning_tokens: Count
    accepted_prediction_tokens: Count
    rejected_prediction_tokens: Count


class Usage(TypedDict):
    """Tokens read and written."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens
    completion_tokens_details: AnswerTokens


class Timings(TypedDict):
    """What an answer took: seconds in the queue and to the first token, tokens a second after it."""

    first_token_s: float | None
    tokens_per_s: float
    prompt_tokens: Count
    cached_tokens: Count
    queue_s: float


class Identity(TypedDict):
    """What all answers, and all parts of a streamed one, begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Counts(TypedDict):
    """What all answers, and the last part of a streamed one, end with."""

    usage: Usage
    timings: Timings


class ChatAnswer(Identity, Counts):
    """An answer to a chat request."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(TypedDict):
    """Log-probabilities of a continuation's tokens; null for the first one of a prompt that is echoed."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class TextChoice(TypedDict):
    """One of the continuations."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextAnswer(Identity, Counts):
    """An answer to a completion request."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class LlamaCppAnswer(TypedDict, total=False):
    """A text, or the middle of one, as llama.cpp tells it; a request may choose its fields."""

    index: Count
    content: str
    stop: bool
    stop_type: Literal["eos", "limit"]
    model: str
    tokens_predicted: Count
    tokens_evaluated: Count
    tokens_cached: Count
    truncated: bool
    timings: dict[str, float]


class ModelMeta(TypedDict):
    """Sizes of a model, as llama.cpp names them."""

    n_ctx_train: Count | None
    n_vocab: Count


class ModelEntry(TypedDict):
    """A model; its context's length by the names that clients look for, null while it is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: Count | None
    context_length: Count | None
    meta: ModelMeta


class Props(TypedDict):
    """The model and the server, as llama.cpp's server tells it."""

    default_generation_settings: dict[str, Count]
    total_slots: Count
    model_alias: str
    chat_template: str
    eos_token: str
    modalities: dict[str, bool]
    build_info: str


class Slot(TypedDict):
    """An engine, as llama.cpp's server tells it."""

    id: Count
    n_ctx: Count
    is_processing: bool


class TokenizerInfo(TypedDict):
    """The tokenizer, as vLLM's server tells it."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str
    pad_token: str | None
    model_max_length: Count
    chat_template: str


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(TypedDict):
    """Whether the server can answer, and why an engine is not ready that was or should be."""

    status: Literal["ok", "loading", "stopping"]
    engines: Count
    ready: Count
    problem: str | None


class Setting(TypedDict):
    """A sampling parameter: this server's default, and its range, which leaves `low` itself out if `above`."""

    name: str
    kind: Literal["number", "integer", "texts", "switch"]
    default: bool | int | float | list[str] | None
    low: float
    high: float
    above: bool
    step: float
    slider: bool
    words: dict[Literal["en", "zh"], Words]


class Info(TypedDict):
    """The model and the server."""

    model: str
    precision: str
    engine: str | None
    context_length: int | None
    version: str
    key_required: bool
    ready: bool
    engines: Count
    sampling: list[Setting]
    limits: dict[str, int | float]


class TokensAnswer(TypedDict):
    """Token ids of a text."""

    count: Count
    max_model_len: Count
    tokens: list[Count]


class TextAnswerOfTokens(TypedDict):
    """A text."""

    prompt: str


def identity(prefix: str, kind: str, model: str, fingerprint: str) -> dict[str, Any]:
    """Return what all parts of an answer begin with; its id begins with `prefix`."""
    return {
        "id": prefix + secrets.token_hex(12),
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
        "object": kind,
    }


def counts(usages: Sequence[AnswerUsage], prompts: int, queue_s: float) -> Counts:
    """Return tokens and times of all choices of a request, where each of the first `prompts` prompts counts once."""
    first = usages[:: max(1, len(usages) // prompts)]
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
            "completion_tokens_details": {
                "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages),
                "accepted_prediction_tokens": sum(usage.accepted_tokens for usage in usages),
                "rejected_prediction_tokens": sum(
                    usage.drafted_tokens - usage.accepted_tokens for usage in usages
                ),
            },
        },
        "timings": {
            "first_token_s": round(usages[0].first_token_s, 6) if usages else None,
            "tokens_per_s": round(decoded / seconds, 3) if seconds else 0.0,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "queue_s": round(queue_s, 6),
        },
    }


def chat_logprobs(items: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return log-probabilities as chat completions have them."""
    return {
        "content": [{**_token(item), "top_logprobs": [_token(top) for top in item.top]} for item in items],
        "refusal": None,
    }


def text_logprobs(items: Sequence[TokenLogprob], offset: int) -> TextLogprobs:
    """Return log-probabilities as completions have them; `offset` is where the text of the first token begins."""
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item.text)
    return {
        "tokens": [item.text for item in items],
        "token_logprobs": [item.logprob if item.predicted else None for item in items],
        "top_logprobs": [
            {top.text: top.logprob for top in item.top} if item.predicted else None for item in items
        ],
        "text_offset": offsets,
    }


def _token(item: TokenLogprob) -> TokenProbability:
    return {"token": item.text, "logprob": item.logprob, "bytes": list(item.data)}


STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true its pieces as events, each `data: {...}`, finally `data: [DONE]`",
        "content": {"text/event-stream": {"schema": {}}},
    }
}
LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true its pieces as lines of JSON",
        "content": {"application/x-ndjson": {"schema": {}}},
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorAnswer, "description": "An error"}}
ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {**ERRORS["default"], "model": AnthropicErrorAnswer}
}
OLLAMA_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {**ERRORS["default"], "model": OllamaErrorAnswer}
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Counters", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
LOADING: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "No engine is ready"}}
