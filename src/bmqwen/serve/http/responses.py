"""The bodies of answers, as the server's OpenAPI document describes them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0)]
Finish = Literal["stop", "length"]


class ErrorDetails(BaseModel):
    """What went wrong: a sentence, a family, the field at fault, and a name for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Every error, in a stream too."""

    error: ErrorDetails


class TokenProbability(BaseModel):
    """A token, its natural log-probability and its bytes."""

    token: str
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class ChosenToken(TokenProbability):
    """The token of an answer, and the likeliest ones at its place."""

    top_logprobs: list[TokenProbability]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[ChosenToken]
    refusal: None


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class CachedTokens(BaseModel):
    """Tokens of the prompt that were cached."""

    cached_tokens: Count


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens


class Timings(BaseModel):
    """What an answer took: seconds in the queue and to the first token, tokens a second after it."""

    first_token_s: float | None
    tokens_per_s: float
    prompt_tokens: Count
    cached_tokens: Count
    queue_s: float


class Identity(BaseModel):
    """What all answers begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    timings: Timings


class ChatAnswer(Identity):
    """An answer to a chat request."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    """Log-probabilities of a continuation's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[Count]


class TextChoice(BaseModel):
    """One of the continuations."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextAnswer(Identity):
    """An answer to a completion request."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelEntry(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(BaseModel):
    """Whether the server can answer, and why an engine is not ready that was or should be."""

    status: Literal["ok", "loading", "stopping"]
    engines: Count
    ready: Count
    problem: str | None


class SettingWords(BaseModel):
    """What a parameter is called and does."""

    label: str
    help: str


class Setting(BaseModel):
    """A sampling parameter: this server's default, and its range, which leaves `low` itself out if `above`."""

    name: str
    kind: Literal["number", "integer", "texts"]
    default: float | list[str] | None
    low: float
    high: float
    above: bool
    step: float
    slider: bool
    words: dict[Literal["en", "zh"], SettingWords]


class Info(BaseModel):
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
    limits: dict[str, float]


class TokensAnswer(BaseModel):
    """Token ids of a text."""

    count: Count
    max_model_len: Count
    tokens: list[Count]


class TextAnswerOfTokens(BaseModel):
    """A text."""

    prompt: str


STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true its pieces as events, each `data: {...}`, at last `data: [DONE]`",
        "content": {"text/event-stream": {"schema": {}}},
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorAnswer, "description": "An error"}}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Counters", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
LOADING: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "No engine is ready"}}
