"""How to sample, and what a generation reports. One vocabulary for the CLI, the server and the benchmark."""

import math
from dataclasses import dataclass, field
from typing import Literal

from bmqwen.errors import InputError

FinishReason = Literal["stop", "length", "cancelled"]
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling as in the OpenAI API, plus top_k, min_p and repetition_penalty. Temperature 0 is greedy.

    Order of application: logit_bias, penalties, json_schema, temperature, top_k, top_p, min_p.
    Raises InputError for a value out of range (checked on construction); it names field, value and range.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: off; n: the n most likely alternatives beside the token itself
    json_schema: str | None = None  # as JSON: the answer is JSON that keeps to it

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 2)
        _integer("top_k", self.top_k, 0, 2**31 - 1)
        _number("top_p", self.top_p, 0, 1, above=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0, 10, above=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        for token, bias in self.logit_bias.items():
            _integer("a token of logit_bias", token, 0, 2**31 - 1)
            _number(f"logit_bias of token {token}", bias, -100, 100)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) for text in self.stop):
            raise InputError(f"stop is {self.stop!r}, but must be a tuple of strings")
        if not all(self.stop):
            raise InputError("stop has an empty text, at which no answer can end: leave it out")
        if len(self.stop) > MAX_STOPS or any(len(text) > MAX_STOP_LENGTH for text in self.stop):
            raise InputError(
                f"stop takes at most {MAX_STOPS} strings of at most {MAX_STOP_LENGTH} characters"
            )
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, 20)
        if self.json_schema is not None and not isinstance(self.json_schema, str):
            raise InputError("json_schema must be a JSON schema as text")


def _number(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Refuse what is no finite number in [low, high], or in (low, high] with `above`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and low <= value <= high and not (above and value == low):
        return
    span = f"above {low} and at most {high}" if above else f"from {low} to {high}"
    raise InputError(f"{name} is {value!r}, but must be a number {span}")


def _integer(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    raise InputError(f"{name} is {value!r}, but must be a whole number from {low} to {high}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm, of the unmodified distribution)."""

    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a stream: whole characters only, never part of a stop string."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation, and its times in seconds."""

    prompt_tokens: int  # the whole prompt
    cached_tokens: int  # of these, found in the KV cache
    completion_tokens: int  # sampled, with the stop token that ended the answer
    first_token_s: float  # from the request to the first sampled token
    decode_s: float  # from the first sampled token to the last

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first over the time they took; 0.0 when there are none."""
        measured = self.completion_tokens > 1 and self.decode_s > 0
        return (self.completion_tokens - 1) / self.decode_s if measured else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation. `text` is exactly the concatenation of the streamed pieces.

    `token_ids` are the sampled tokens without the stop token that ended the answer. They hold more than
    `text` where a stop string cut the answer, or where the length ended it inside of a character.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
