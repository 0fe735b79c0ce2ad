"""POST /v1/messages, and the chat request that it becomes."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from bmqwen.errors import UnsupportedFieldError
from bmqwen.serve.http.errors import validated
from bmqwen.serve.http.fields import OpenModel, RequestModel, Unused, accepting
from bmqwen.serve.http.protocol import WHOLE, ChatRequest, Stops, parts_or_text
from bmqwen.serve.http.tools import MOST_TOOLS, ToolName


class TextBlock(OpenModel):
    """Text."""

    type: Literal["text"]
    text: str


Texts = Annotated[
    Annotated[str, Tag("a string")] | Annotated[list[TextBlock], Tag("list of parts")],
    Discriminator(parts_or_text),
]


class ToolUseBlock(OpenModel):
    """A call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(OpenModel):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None


class ThinkingBlock(OpenModel):
    """Thoughts."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(OpenModel):
    """Thoughts that only Anthropic can read."""

    type: Literal["redacted_thinking"]


Block = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock,
    Field(discriminator="type"),
]
Content = Annotated[
    Annotated[str, Tag("a string")] | Annotated[list[Block], Tag("list of parts")],
    Discriminator(parts_or_text),
]


class AnthropicMessage(OpenModel):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: Content


class AnthropicTool(OpenModel):
    """A tool that the client runs; those that Anthropic runs have another type."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class AnthropicChoice(OpenModel):
    """Whether a tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(OpenModel):
    """Whether to think, and how much."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None


class SchemaFormat(RequestModel):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(RequestModel):
    """The form of the answer; `effort` changes nothing here."""

    format: SchemaFormat | None = None
    effort: str | None = None


class Metadata(OpenModel):
    """Who asks."""

    user_id: str | None = None


@accepting(
    {
        "service_tier": Unused(str, ("auto", "standard_only")),
        "context_management": Unused(dict[str, Any]),
        "inference_geo": Unused(str),
        "cache_control": Unused(dict[str, Any]),
        "speed": Unused(str, ("standard",)),
    }
)
class CountRequest(RequestModel):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[AnthropicMessage], Field(min_length=1)]
    system: Texts | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = None

    def chat(self) -> ChatRequest:
        """Return the chat request. Raises RequestError for what it cannot say."""
        return validated(ChatRequest, self._fields())

    def _fields(self) -> dict[str, Any]:
        messages = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        for message in self.messages:
            messages += _messages(message)
        form = self.output_format or (self.output_config and self.output_config.format)
        choice, thinking = self.tool_choice, self.thinking
        return {
            "model": self.model,
            "messages": messages,
            "tools": [_tool(tool) for tool in self.tools or []] or None,
            "tool_choice": choice and _choice(choice),
            "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
            "enable_thinking": thinking and thinking.type != "disabled",
            "thinking_budget": thinking and thinking.budget_tokens,
            "response_format": form
            and {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema_}},
        }


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]
    metadata: Metadata | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1), WHOLE] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    def chat(self) -> ChatRequest:
        """Return the chat request. Raises RequestError for what it cannot say."""
        user = self.metadata and self.metadata.user_id
        more = {
            name: getattr(self, name) for name in ("max_tokens", "stream", "temperature", "top_k", "top_p")
        }
        return validated(
            ChatRequest,
            {**self._fields(), **more, "stop": self.stop_sequences or None, "user": user and user[:256]},
        )


def _text(content: str | list[TextBlock] | None) -> str:
    if isinstance(content, list):
        return "".join(block.text for block in content)
    return content or ""


def _messages(message: AnthropicMessage) -> Iterator[dict[str, Any]]:
    """A message with results of calls becomes several."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    text = thoughts = ""
    calls: list[dict[str, Any]] = []
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            if text:
                yield {"role": message.role, "content": text}
                text = ""
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)}
        elif isinstance(block, TextBlock):
            text += block.text
        elif isinstance(block, ThinkingBlock):
            thoughts += block.thinking
        elif isinstance(block, ToolUseBlock):
            calls.append(
                {
                    "id": block.id,
                    "type": "function",
                    "function": {"name": block.name, "arguments": json.dumps(block.input)},
                }
            )
    if message.role == "assistant":
        yield {
            "role": "assistant",
            "content": text,
            **({"reasoning_content": thoughts} if thoughts else {}),
            **({"tool_calls": calls} if calls else {}),
        }
    elif text:
        yield {"role": message.role, "content": text}
    if calls and message.role != "assistant":
        raise UnsupportedFieldError("only messages of the assistant can have tool_use blocks", "messages")


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": {**function, "strict": tool.strict}}


def _choice(choice: AnthropicChoice) -> Any:
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name or ""}}
    return "required" if choice.type == "any" else choice.type
