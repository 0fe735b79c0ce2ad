"""POST /v1/responses, and the chat request that it becomes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from bmqwen.errors import UnsupportedFieldError
from bmqwen.serve.http.errors import validated
from bmqwen.serve.http.fields import Off, OpenModel, RequestModel, Unused, accepting
from bmqwen.serve.http.protocol import WHOLE, ChatRequest, parts_or_text
from bmqwen.serve.http.tools import MOST_TOOLS, ToolName, choice_kind

LOGPROBS = "message.output_text.logprobs"


class InputText(OpenModel):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("a string")] | Annotated[list[InputText], Tag("list of parts")],
    Discriminator(parts_or_text),
]


class MessageItem(OpenModel):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class CallItem(OpenModel):
    """A call."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class ResultItem(OpenModel):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningItem(OpenModel):
    """Thoughts, where they are to be read."""

    type: Literal["reasoning"]
    content: list[InputText] | None = None


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"{kind or 'message'} item"


Item = Annotated[
    Annotated[MessageItem, Tag("message item")]
    | Annotated[CallItem, Tag("function_call item")]
    | Annotated[ResultItem, Tag("function_call_output item")]
    | Annotated[ReasoningItem, Tag("reasoning item")],
    Discriminator(_kind),
]


class ResponseTool(OpenModel):
    """A tool that the client runs; those that OpenAI runs have another type."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(OpenModel):
    """The name of a tool."""

    type: Literal["function"]
    name: str


class AllowedTools(OpenModel):
    """Which of the tools may be called now."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenTool]


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a string")]
    | Annotated[ChosenTool, Tag("a tool")]
    | Annotated[AllowedTools, Tag("some tools")],
    Discriminator(choice_kind),
]


class TextFormat(OpenModel):
    """Text, JSON, or JSON that keeps to a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(RequestModel):
    """The form of the answer; `verbosity` changes nothing here."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(OpenModel):
    """How to think."""

    effort: str | None = None


@accepting(
    {
        "background": Unused(Off, (False,)),
        "context_management": Unused(list[Any]),
        "max_tool_calls": Unused(int),
        "prompt_cache_key": Unused(str),
        "prompt_cache_retention": Unused(str),
        "service_tier": Unused(str, ("auto", "default")),
        "stream_options": Unused(dict[str, Any]),
        "truncation": Unused(str, ("disabled",)),
    }
)
class ResponseRequest(RequestModel):
    """POST /v1/responses."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("a string")] | Annotated[list[Item], Tag("list of parts")],
        Discriminator(parts_or_text),
    ]
    include: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: Annotated[str, Field(max_length=256)] | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: TextConfig | None = None
    tool_choice: Choice | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: Annotated[str, Field(max_length=256)] | None = None

    def items(self) -> list[dict[str, Any]]:
        """Return the input as items, each with an id and its type."""
        if isinstance(self.input, str):
            part = {"type": "input_text", "text": self.input}
            given = [{"type": "message", "role": "user", "content": [part]}]
        else:
            given = [item.model_dump(exclude_none=True) for item in self.input]
        return [{**item, "id": f"item_{place}"} for place, item in enumerate(given)]

    def messages(self) -> list[dict[str, Any]]:
        """Return the input as messages of a chat."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return _messages(self.input)

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> ChatRequest:
        """Return the chat request of a conversation. Raises RequestError for what it cannot say."""
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        logprobs = LOGPROBS in (self.include or [])
        return validated(
            ChatRequest,
            {
                "model": self.model,
                "messages": [*instructions, *messages],
                "tools": [_tool(tool) for tool in self.tools or []] or None,
                "tool_choice": self.tool_choice and _choice(self.tool_choice),
                "parallel_tool_calls": self.parallel_tool_calls,
                "response_format": self.text and self.text.format and _format(self.text.format),
                "max_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "reasoning_effort": self.reasoning and self.reasoning.effort,
                "logprobs": True if logprobs else None,
                "top_logprobs": self.top_logprobs if logprobs else None,
                "user": self.user or self.safety_identifier,
            },
        )


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _messages(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Thoughts, text and calls of one answer are items of their own, but one message of a chat."""
    made: list[dict[str, Any]] = []
    answer: dict[str, Any] | None = None
    for item in items:
        if isinstance(item, (MessageItem, ResultItem)) and getattr(item, "role", "") != "assistant":
            answer = None
            if isinstance(item, ResultItem):
                made.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            else:
                made.append({"role": item.role, "content": _text(item.content)})
            continue
        if answer is None or (
            isinstance(item, MessageItem) and (answer["content"] or "tool_calls" in answer)
        ):
            answer = {"role": "assistant", "content": ""}
            made.append(answer)
        if isinstance(item, MessageItem):
            answer["content"] = _text(item.content)
        elif isinstance(item, CallItem):
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            answer.setdefault("tool_calls", []).append(call)
        elif item.content:
            answer["reasoning_content"] = _text(item.content)
    return made


def _tool(tool: ResponseTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {**function, "strict": tool.strict}}


def _choice(choice: Choice) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, ChosenTool):
        return {"type": "function", "function": {"name": choice.name}}
    tools = [{"type": "function", "function": {"name": tool.name}} for tool in choice.tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _format(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    if form.schema_ is None:
        raise UnsupportedFieldError(
            "text.format has no schema: give it one, or the type json_object", "text.format"
        )
    return {"type": "json_schema", "json_schema": {"name": form.name or "answer", "schema": form.schema_}}
