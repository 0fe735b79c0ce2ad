"""The table of sampling parameters and of those that say how a chat model thinks, and what a generation reports.

A parameter is a field of `SamplingParams` with its range and its help beside it. Command options, `/set`, fields of
requests, a server's defaults and the page's settings are made from that; what it does stands in `sampler.py`.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from bmqwen.errors import InputError

PieceKind = Literal["text", "thought"]
FinishReason = Literal["stop", "length", "cancelled"]
Kind = Literal["number", "integer", "texts", "switch"]
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000
_NAMES = {"number": "a number", "integer": "a whole number", "texts": "text in quotes", "switch": "on or off"}
_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_INT32 = 2**31 - 1
# Most tokens of an answer where nobody says otherwise: small models may repeat themselves without end.
MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Words:
    """What a parameter is called and what it does, in one language."""

    label: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table.

    Attributes:
        name: as fields of requests and `/set` spell it.
        kind: of its values; "texts" is a tuple of strings, "switch" true or false.
        default: the value that changes nothing.
        low, high: the range of a number; `above`: `low` itself is outside of it.
        step: of the page's field; `slider`: the page also shows a slider.
        en, zh: its words.
        per_answer: it belongs to one answer, so neither a model nor a server has a default for it.
        chat: it belongs to chats: a text that is only continued has no such thing.
        wraps: a request may give any whole number, of which the remainder is taken.
        aliases: other names in requests.
        unlimited: -1 in a request stands for the default.
    """

    kind: Kind
    default: Any
    low: int
    high: int
    name: str = ""
    en: Words = Words()
    zh: Words = Words()
    above: bool = False
    step: float = 1
    slider: bool = False
    per_answer: bool = False
    chat: bool = False
    wraps: bool = False
    aliases: tuple[str, ...] = ()
    unlimited: bool = False

    @property
    def option(self) -> str:
        """How commands spell it: "--top-p"."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raise InputError, naming field, value and range, for a value that is outside of it."""
        if self.kind == "texts":
            _check_texts(self.name, value)
        elif self.kind == "switch":
            if value not in (None, True, False):
                raise InputError(f"{self.name} is {value!r}, but must be true or false")
        elif value is not None or self.default is not None:
            check_number(
                self.name, value, self.low, self.high, above=self.above, whole=self.kind == "integer"
            )

    def parse(self, text: str) -> Any:
        """Return the value that a user typed. Raises InputError for text that is none; the range is not checked."""
        try:
            if self.kind == "texts":
                return tuple(shlex.split(text))
            if self.kind == "switch":
                return _SWITCH[text.lower()]
            return int(text) if self.kind == "integer" else float(text)
        except (ValueError, KeyError):
            raise InputError(f"{self.name} must be {_NAMES[self.kind]}, not {text[:40]}") from None

    def text(self, value: Any) -> str:
        """Return a value as a user would type it; "none" for one that is not set."""
        if value is None or value == ():
            return "none"
        if self.kind == "switch":
            return "on" if value else "off"
        return " ".join(shlex.quote(text) for text in value) if self.kind == "texts" else f"{value}"


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A tool that an answer may call: its name, and the JSON schema that its arguments keep to, as JSON.

    What cannot be held of a schema is an error where it is strict; else the arguments keep to the rest of it.
    """

    name: str
    schema: str
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolRules:
    """Which calls an answer may have: `required` ones begin it, `parallel` ones may be several.

    `xml`: they have the form of Qwen3-Coder's template, else Hermes' form.
    """

    tools: tuple[ToolRule, ...]
    required: bool = False
    parallel: bool = True
    xml: bool = False


def _parameter(row: Parameter, en: Words, zh: Words) -> Any:
    return field(default=row.default, metadata={"row": replace(row, en=en, zh=zh)})


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling as in the OpenAI API, plus top_k, min_p and repetition_penalty, and thinking. Without arguments: greedy.

    Order of application: logit_bias, penalties, json_schema, temperature, top_k, top_p, min_p.
    Raises InputError for a value out of range (checked on construction); it names field, value and range.
    """

    temperature: float = _parameter(
        Parameter("number", 0.0, 0, 2, step=0.05, slider=True),
        Words("Temperature", "Randomness, from 0 to 2; 0 always takes the most likely token"),
        Words("温度", "随机程度，0 到 2；0 表示总是选最可能的 token"),
    )
    top_p: float = _parameter(
        Parameter("number", 1.0, 0, 1, above=True, step=0.01, slider=True),
        Words(
            "Top P", "Choose among the most likely tokens that together have this probability; 1 keeps all"
        ),
        Words("Top P", "只保留累计概率达到此值的 token；1 表示全部"),
    )
    top_k: int = _parameter(
        Parameter("integer", 0, 0, _INT32, unlimited=True),
        Words("Top K", "Choose among this many most likely tokens; 0 keeps all"),
        Words("Top K", "只保留概率最高的若干个 token；0 表示全部"),
    )
    min_p: float = _parameter(
        Parameter("number", 0.0, 0, 1, step=0.01),
        Words("Min P", "Drop tokens less likely than this share of the most likely one; 0 keeps all"),
        Words("Min P", "去掉概率低于最高者此比例的 token；0 表示全部"),
    )
    repetition_penalty: float = _parameter(
        Parameter("number", 1.0, 0, 10, above=True, step=0.01, aliases=("repeat_penalty",)),
        Words("Repetition penalty", "Above 1, tokens of the prompt and the answer become less likely"),
        Words("重复惩罚", "大于 1 时，提示词和回答中出现过的 token 概率降低"),
    )
    presence_penalty: float = _parameter(
        Parameter("number", 0.0, -2, 2, step=0.1),
        Words("Presence penalty", "Above 0, tokens that the answer already has become less likely"),
        Words("存在惩罚", "大于 0 时，回答中出现过的 token 概率降低"),
    )
    frequency_penalty: float = _parameter(
        Parameter("number", 0.0, -2, 2, step=0.1),
        Words("Frequency penalty", "Above 0, tokens become less likely the more often the answer has them"),
        Words("频率惩罚", "大于 0 时，token 在回答中出现越多，概率越低"),
    )
    max_tokens: int | None = _parameter(
        # None: until the context is full; 0: the prompt is only read.
        Parameter("integer", None, 0, _INT32, aliases=("max_completion_tokens", "n_predict"), unlimited=True),
        Words("Max tokens", "Maximum number of tokens in an answer"),
        Words("最大 token 数", "回答最多的 token 数"),
    )
    seed: int | None = _parameter(
        Parameter("integer", None, 0, 2**64 - 1, per_answer=True, wraps=True),
        Words("Seed", "The same seed gives the same answer; without one, answers vary"),
        Words("随机种子", "种子相同，回答相同；留空则每次不同"),
    )
    stop: tuple[str, ...] = _parameter(
        Parameter("texts", (), 0, MAX_STOPS, per_answer=True),
        Words("Stop", "End the answer before this text"),
        Words("停止文本", "在此文本之前结束回答"),
    )
    enable_thinking: bool | None = _parameter(
        Parameter("switch", None, 0, 1, chat=True),  # None: as the chat template has it
        Words("Thinking", "Let a model that can do so think before it answers"),
        Words("思考", "让支持思考的模型先思考再回答"),
    )
    thinking_budget: int | None = _parameter(
        Parameter("integer", None, 0, _INT32, chat=True),
        Words("Thinking budget", "Maximum number of tokens in the thoughts; then the model has to answer"),
        Words("思考 token 上限", "思考最多使用的 token 数，达到后开始回答"),
    )
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # None: off; n: the n most likely alternatives beside the token itself
    echo: bool = (
        False  # the answer begins with the prompt, which has log-probabilities too if `logprobs` asks for any
    )
    stop_ids: tuple[int, ...] = ()  # tokens that end this answer, beside the model's own
    # Seconds after an answer's first token after which it ends: wherever it is; once it has a line break.
    seconds: float | None = None
    line_seconds: float | None = None
    least_indent: int = 0  # the answer ends before a line that is indented less
    json_schema: str | None = None  # as JSON: the answer is JSON that keeps to it
    tools: ToolRules | None = None  # calls that the answer may have, or has in place of JSON
    # Nothing is sampled: what the model gives after the prompt is wanted, of these tokens; all of it for none.
    pool: tuple[int, ...] | None = None
    other_mode: dict[str, float] = field(
        default_factory=dict
    )  # defaults where thinking is turned off, or on again
    thoughts: bool = False  # told apart from the text of the answer; else their tags are text

    def __post_init__(self) -> None:
        for parameter in PARAMETERS:
            parameter.check(getattr(self, parameter.name))
        for token, bias in self.logit_bias.items():
            check_number("a token of logit_bias", token, 0, _INT32, whole=True)
            check_number(f"logit_bias of token {token}", bias, -100, 100)
        if self.logprobs is not None:
            check_number("logprobs", self.logprobs, 0, 20, whole=True)
        if self.json_schema is not None and not isinstance(self.json_schema, str):
            raise InputError("json_schema must be a JSON schema as text")


# The table: what users can set by name, in the order in which it is shown.
PARAMETERS: tuple[Parameter, ...] = tuple(
    replace(found.metadata["row"], name=found.name)
    for found in fields(SamplingParams)
    if "row" in found.metadata
)


def template_variables(params: SamplingParams) -> dict[str, object]:
    """Return the variables of a chat template that the parameters of a chat set."""
    return {} if params.enable_thinking is None else {"enable_thinking": params.enable_thinking}


def choose_params(defaults: SamplingParams, given: Mapping[str, Any]) -> SamplingParams:
    """Return `defaults` with the values that a user gave by name in their place.

    Temperature 0 asks for the most likely token, so no penalty that was not asked for may make it another one. Where
    thinking is turned off or on, the defaults are those for it.
    Raises InputError for a value out of range.
    """
    greedy = given.get("temperature") == 0
    greedy_defaults = SamplingParams(max_tokens=defaults.max_tokens, seconds=defaults.seconds)
    return replace(greedy_defaults if greedy else in_mode(defaults, given.get("enable_thinking")), **given)


def in_mode(params: SamplingParams, thinking: bool | None) -> SamplingParams:
    """Return the parameters for a model that is to think, or not to; None: as they are."""
    if thinking is None or thinking is (params.enable_thinking is not False):
        return params
    other = {name: getattr(params, name) for name in params.other_mode}
    values: dict[str, Any] = dict(params.other_mode)
    return replace(params, **values, enable_thinking=thinking, other_mode=other)


def check_number(
    name: str, value: Any, low: int, high: int, *, above: bool = False, whole: bool = False
) -> None:
    """Raise InputError for what is no number in [low, high], or in (low, high] with `above`."""
    kinds = (int,) if whole else (int, float)
    number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if number and low <= value <= high and not (above and value == low):
        return
    span = f"above {low} and at most {high}" if above else f"from {low} to {high}"
    raise InputError(f"{name} is {value!r}, but must be {'a whole' if whole else 'a'} number {span}")


def _check_texts(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{name} is {value!r}, but must be a tuple of strings")
    if not all(value):
        raise InputError(f"{name} has an empty text, at which no answer can end: leave it out")
    if len(value) > MAX_STOPS or any(len(text) > MAX_STOP_LENGTH for text in value):
        raise InputError(f"{name} takes at most {MAX_STOPS} strings of at most {MAX_STOP_LENGTH} characters")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm, of the unmodified distribution).

    `predicted` is False for the first token of a prompt, whose log-probability means nothing.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()
    predicted: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a stream: whole characters only, never part of a stop string or a tag.

    Only text has log-probabilities.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    kind: PieceKind = "text"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation, and its times in seconds."""

    prompt_tokens: int  # the whole prompt
    cached_tokens: int  # of these, found in the KV cache
    completion_tokens: int  # sampled, with the stop token that ended the answer
    first_token_s: float  # from the request to the first sampled token
    decode_s: float  # from the first sampled token to the last
    reasoning_tokens: int = 0  # the first of the sampled ones: thoughts, with their tags
    drafted_tokens: int = 0  # guessed before they were sampled, and checked several in a step
    accepted_tokens: int = 0  # of these, the ones that were sampled

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first over the time they took; 0.0 when there are none."""
        measured = self.completion_tokens > 1 and self.decode_s > 0
        return (self.completion_tokens - 1) / self.decode_s if measured else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation. `text` is exactly the concatenation of the streamed pieces of text, an echoed prompt among
    them, `thoughts` of those.

    `token_ids` are the sampled tokens without the stop token that ended the answer. They hold more than
    `text` where a stop string cut the answer, or where the length ended it inside of a character.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    thoughts: str = ""
    stop: str | None = None  # the stop string that ended it
    row: bytes = b""  # with `pool`: little-endian float32

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens after the thoughts."""
        return self.token_ids[self.usage.reasoning_tokens :]
