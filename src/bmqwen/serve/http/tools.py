"""Tools in requests and histories, as OpenAI's API has them."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from bmqwen.errors import RequestError, UnsupportedFieldError
from bmqwen.generate.json_schema import held_schema
from bmqwen.generate.params import ToolRule, ToolRules
from bmqwen.serve.http.fields import OpenModel, RequestModel

MOST_TOOLS = 128
# Letters of any alphabet; nothing that would end the name in a prompt.
ToolName = Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]


class FunctionDefinition(OpenModel):
    """What a tool is for, and the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(OpenModel):
    """A tool that the client runs."""

    type: Literal["function"]
    function: FunctionDefinition

    def shown(self) -> dict[str, Any]:
        """Return what chat templates show of it."""
        function = {"name": self.function.name, "description": self.function.description or ""}
        return {"type": "function", "function": {**function, "parameters": self.parameters()}}

    def parameters(self) -> dict[str, Any]:
        """Return the schema of its arguments, which are an object."""
        return {"type": "object", **(self.function.parameters or {"properties": {}})}


class FunctionName(OpenModel):
    """The name of a tool."""

    name: str


class NamedTool(OpenModel):
    """A tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(RequestModel):
    """Which of the tools may be called now."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedChoice(RequestModel):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def choice_kind(value: Any) -> str:
    """Return the tag of what `tool_choice` may be, for pydantic's discriminator."""
    if isinstance(value, str):
        return "a string"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "some tools" if kind == "allowed_tools" else "a tool"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a string")]
    | Annotated[NamedTool, Tag("a tool")]
    | Annotated[AllowedChoice, Tag("some tools")],
    Discriminator(choice_kind),
]


class CalledFunction(OpenModel):
    """What was called; some clients send the arguments as the object that they are."""

    name: ToolName
    arguments: Annotated[str | dict[str, Any], Field(union_mode="left_to_right")]


class CallPart(OpenModel):
    """A call in an answer of a history."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


def rules_of(
    tools: list[FunctionTool] | None, choice: ToolChoice | None, parallel: bool | None
) -> ToolRules | None:
    """Return which calls an answer may have; None where no tool may be called.

    A call that must be is the only one unless more are asked for: a small model that may go on calls without end.

    Raises:
        RequestError: two tools of one name, a choice of a tool that is not there, or of one where there is none.
        SchemaError: arguments whose schema cannot be written as JSON.
    """
    known = [tool.function.name for tool in tools or []]
    if double := next((name for name in known if known.count(name) > 1), None):
        raise RequestError(f"tools has two tools named {double!r}: give each a name of its own", "tools")
    if choice in (None, "auto", "none") and (choice == "none" or not tools):
        return None
    if not tools:
        raise RequestError("tool_choice asks for a call, but tools is empty", "tool_choice")
    required, chosen = choice == "required", set(known)
    if isinstance(choice, NamedTool):
        required, chosen = True, {choice.function.name}
    elif isinstance(choice, AllowedChoice):
        allowed = choice.allowed_tools
        required, chosen = allowed.mode == "required", {tool.function.name for tool in allowed.tools}
    if unknown := chosen.difference(known):
        raise RequestError(
            f"tool_choice names {min(unknown)!r}, which is not one of the tools", "tool_choice"
        )
    rules = [
        ToolRule(tool.function.name, _schema(tool, place), bool(tool.function.strict))
        for place, tool in enumerate(tools)
        if tool.function.name in chosen
    ]
    return ToolRules(tuple(rules), required, parallel is True or (parallel is None and not required))


def _schema(tool: FunctionTool, place: int) -> str:
    schema = tool.parameters()
    param = f"tools[{place}].function.parameters"
    if schema["type"] != "object":
        raise UnsupportedFieldError(
            f'{param} is not the schema of an object: give it "type": "object"', param
        )
    return held_schema(schema, param)
