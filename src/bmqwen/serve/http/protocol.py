"""The bodies of requests, in OpenAI's order and meaning; the sampling parameters follow, from their table.

What else clients send stands in the tables of `fields.py`; any other field with a value is an error.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic.config import JsonDict

from bmqwen.errors import RequestError
from bmqwen.generate.params import MAX_STOP_LENGTH, MAX_STOPS, PARAMETERS, Parameter
from bmqwen.serve.http.fields import (
    CHAT_ONLY,
    STREAM_UNUSED,
    TOKENIZE_UNUSED,
    UNUSED,
    Body,
    OpenModel,
    RequestModel,
    accepting,
    extended,
)
from bmqwen.serve.http.tools import MOST_TOOLS, CallPart, FunctionTool, ToolChoice

MOST_CHOICES = 8
MOST_PROMPTS = 256
# What no vocabulary exceeds; the server's document names its model's own instead.
LARGEST_ID = 2**31 - 2
BIAS_PATTERN = "^(0|[1-9][0-9]{0,8})$"


def _whole(value: Any) -> Any:
    """2.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _needs(field: str, switch: str) -> JsonDict:
    """A field that may only be there when a switch is on."""
    absent: JsonDict = {"properties": {field: {"type": "null"}}}
    return {"anyOf": [absent, {"properties": {switch: {"const": True}}, "required": [switch]}]}


def text_or_ids(value: Any) -> str:
    """Return which of several types a value is meant to be: the checker then complains about that one only."""
    if not isinstance(value, list):
        return "a string"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "lists of ids"
    return "list of strings" if isinstance(first, str) else "list of ids"


def parts_or_text(value: Any) -> str:
    return "list of parts" if isinstance(value, list) else "a string"


WHOLE = BeforeValidator(_whole)
Nothing = Annotated[None, Field(description="Not supported: leave it out.")]
TokenId = Annotated[int, Field(ge=0, le=LARGEST_ID), WHOLE]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[
    Annotated[Stop, Tag("a string")]
    | Annotated[list[Stop], Field(max_length=MAX_STOPS), Tag("list of parts")],
    Discriminator(parts_or_text),
]
Bias = Annotated[
    dict[Annotated[str, Field(pattern=BIAS_PATTERN)], Annotated[float, Field(ge=-100, le=100)]],
    Field(
        description="Token ids and what is added to their logits.",
        json_schema_extra={"additionalProperties": False},
    ),
]


def _one_of(row: Parameter) -> JsonDict:
    """Of a parameter's names at most one may be used (or all with the same value, which a schema cannot say)."""
    names = (row.name, *row.aliases)
    others = combinations(names, len(names) - 1)
    return {"anyOf": [{"properties": {name: {"type": "null"} for name in absent}} for absent in others]}


def _switch(kwargs: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(kwargs.get("enable_thinking"), bool | None):
        raise ValueError("enable_thinking should be a valid boolean")
    return kwargs


TemplateKwargs = Annotated[
    dict[Annotated[str, Field(pattern="^[a-z_]{1,64}$")], bool | int | float | str | None],
    Field(
        max_length=16,
        description="Variables of the chat template, such as enable_thinking.",
        json_schema_extra={
            "properties": {"enable_thinking": {"type": ["boolean", "null"]}},
            "additionalProperties": False,
        },
    ),
    AfterValidator(_switch),
]

# What fits together, as a JSON schema; the checks are where sampling parameters are made.
_SHARED_RULES: list[Any] = [
    *(_one_of(row) for row in PARAMETERS if row.aliases),
]
_CHAT_RULES: JsonDict = {"allOf": [*_SHARED_RULES, _needs("top_logprobs", "logprobs")]}


def _with_parameters(*, chat: bool) -> Callable[[type[Body]], type[Body]]:
    """Add a field for each parameter of the table, of chats or of all answers, and for its other names.

    None of them must be given.
    """
    rows = [row for row in PARAMETERS if row.chat == chat]
    fields = {name: (_field(row), None) for row in rows for name in (row.name, *row.aliases)}
    return lambda body: extended(body, fields)


def _field(row: Parameter) -> Any:
    """Return the type of a parameter's field."""
    text = Field(description=row.en.help + ".")
    if row.kind == "texts":
        return Annotated[Stops | None, text]
    if row.kind == "switch":
        return Annotated[bool | None, text]
    if row.wraps:
        return Annotated[Annotated[int, WHOLE] | None, text]
    low = -1 if row.unlimited else row.low
    span = Field(gt=low, le=row.high) if row.above else Field(ge=low, le=row.high)
    kind = Annotated[int, span, WHOLE] if row.kind == "integer" else Annotated[float, span]
    return Annotated[kind | None, text]


class TextPart(OpenModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("a string")] | Annotated[list[TextPart], Tag("list of parts")],
    Discriminator(parts_or_text),
]


class PlainMessage(OpenModel):
    """What the user says, or instructions for the model."""

    role: Literal["system", "developer", "user"]
    content: Content


class AssistantMessage(OpenModel):
    """What the model said; without content, nothing."""

    role: Literal["assistant"]
    content: Content | None = None
    audio: Nothing = None
    tool_calls: list[CallPart] | None = None
    function_call: Nothing = None
    reasoning_content: Annotated[
        str | None, Field(description="Thoughts; a chat template leaves out those of earlier turns.")
    ] = None


class ToolMessage(OpenModel):
    """What came of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


ChatMessage = Annotated[PlainMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


@accepting(STREAM_UNUSED)
class StreamOptions(RequestModel):
    """What a stream has beside text."""

    include_usage: bool | None = None


class TextFormat(RequestModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """A JSON object, that of a schema if there is one."""

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class JsonSchema(RequestModel):
    """A schema and its name."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(RequestModel):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


@accepting(UNUSED)
@_with_parameters(chat=False)
class GenerationRequest(RequestModel):
    """What chat and completion requests share."""

    model_config = ConfigDict(json_schema_extra={"allOf": _SHARED_RULES})

    model: Annotated[str | None, Field(description="As /v1/models names it; may be left out, or empty.")] = (
        None
    )
    logit_bias: Bias | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: (
        Annotated[
            str, Field(max_length=256, description="Of one address's users, each gets a turn in the queue.")
        ]
        | None
    ) = None
    safety_identifier: Annotated[str, Field(max_length=256, description="As user.")] | None = None

    def ignored(self) -> list[str]:
        """Return the names of fields that are there and that no answer depends on."""
        unstreamed = self.stream_options is not None and not self.stream
        return [*super().ignored(), *(["stream_options"] if unstreamed else [])]


@_with_parameters(chat=True)
class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(json_schema_extra=_CHAT_RULES)

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    chat_template_kwargs: TemplateKwargs | None = None
    function_call: Literal["none", "auto"] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None


@accepting(CHAT_ONLY)
class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Annotated[
        Annotated[str, Tag("a string")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS), Tag("list of strings")]
        | Annotated[Ids, Tag("list of ids")]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), Tag("lists of ids")],
        Discriminator(text_or_ids),
        Field(description="Text, or token ids, or several of either."),
    ]
    echo: Annotated[bool, Field(description="Begin the text with the prompt, logprobs included.")] | None = (
        None
    )
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    suffix: (
        Annotated[str, Field(description="The text after the gap that is to be filled; prompt is text then.")]
        | None
    ) = None


class LlamaCppCompletionRequest(CompletionRequest):
    """POST /completion, as programs for llama.cpp's server send it."""

    echo: Nothing = None
    logprobs: Nothing = None
    suffix: Nothing = None
    response_fields: list[str] | None = None


class OtherFile(OpenModel):
    """A piece of another file, for context."""

    text: str = ""
    filename: str = "tmp"


class InfillRequest(GenerationRequest):
    """POST /infill, as llama.cpp's editors send it."""

    input_prefix: Annotated[str, Field(description="What stands before the gap.")] = ""
    input_suffix: Annotated[str, Field(description="What stands after it.")] = ""
    input_extra: Annotated[list[OtherFile], Field(max_length=1024)] | None = None
    prompt: Annotated[str, Field(description="What stands between input_prefix and the gap.")] | None = None
    n_cmpl: Annotated[int, Field(ge=1, le=MOST_CHOICES, description="As n."), WHOLE] | None = None
    response_fields: list[str] | None = None
    n_indent: Annotated[int, Field(ge=0, le=1000), WHOLE] | None = None
    samplers: (
        Annotated[
            list[str],
            Field(
                description="Sampling parameters that count; infill, or none: the likeliest token.",
                json_schema_extra={"anyOf": [{"maxItems": 0}, {"contains": {"const": "infill"}}]},
            ),
        ]
        | None
    ) = None
    t_max_predict_ms: Annotated[float, Field(ge=0)] | None = None


@accepting(TOKENIZE_UNUSED)
class TokenizeText(RequestModel):
    """POST /tokenize of a text."""

    model: str | None = None
    prompt: Annotated[str, Field(description="Read as /v1/completions reads it.")]
    parse_special: (
        Annotated[bool, Field(description="false: names of control tokens are text, as in messages.")] | None
    ) = None


@accepting({"add_special_tokens": UNUSED["add_special_tokens"]})
class TokenizeChat(RequestModel):
    """POST /apply-template, or /tokenize of the prompt that messages become."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    chat_template_kwargs: TemplateKwargs | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    continue_final_message: (
        Annotated[bool, Field(description="The last message is an answer for the model to go on with.")]
        | None
    ) = None
    add_generation_prompt: (
        Annotated[bool, Field(description="False goes with continue_final_message only.")] | None
    ) = None

    @property
    def continued(self) -> bool:
        """Whether the last message goes on. Raises RequestError for an add_generation_prompt that denies it."""
        continued = bool(self.continue_final_message)
        if self.add_generation_prompt is continued:
            raise RequestError(
                "add_generation_prompt must be false with continue_final_message, and true without it",
                "add_generation_prompt",
            )
        return continued


def _asked(value: Any) -> str:
    return "of messages" if isinstance(value, dict) and "messages" in value else "of a text"


TokenizeRequest = Annotated[
    Annotated[TokenizeText, Tag("of a text")] | Annotated[TokenizeChat, Tag("of messages")],
    Discriminator(_asked),
]


class DetokenizeRequest(RequestModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[TokenId]
