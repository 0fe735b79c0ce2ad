"""POST /api/chat and /api/generate, and the chat request that each becomes."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from bmqwen.errors import RequestError
from bmqwen.generate.params import MAX_TOKENS
from bmqwen.serve.http.errors import validated
from bmqwen.serve.http.fields import Off, OpenModel, RequestModel, Unused, accepting
from bmqwen.serve.http.protocol import WHOLE, ChatRequest, CompletionRequest, Stops
from bmqwen.serve.http.tools import MOST_TOOLS, FunctionTool, ToolName

Name = Annotated[str, AfterValidator(lambda name: name.removesuffix(":latest"))]
NoPictures = Annotated[list[Any], Field(max_length=0, description="This model takes no pictures.")]
Whole = Annotated[int, WHOLE]


@accepting(
    {
        "low_vram": Unused(bool),
        "main_gpu": Unused(int),
        "mirostat": Unused(Annotated[int, Field(ge=0, le=0)], (0,)),
        "mirostat_eta": Unused(float),
        "mirostat_tau": Unused(float),
        "num_batch": Unused(int),
        "num_ctx": Unused(int),
        "num_gpu": Unused(int),
        "num_keep": Unused(int),
        "num_thread": Unused(int),
        "numa": Unused(bool),
        "penalize_newline": Unused(bool),
        "tfs_z": Unused(Annotated[float, Field(ge=1, le=1)], (1.0,)),
        "typical_p": Unused(Annotated[float, Field(ge=1, le=1)], (1.0,)),
        "use_mlock": Unused(bool),
        "use_mmap": Unused(bool),
        "vocab_only": Unused(Off, (False,)),
    }
)
class Options(RequestModel):
    """Sampling, by Ollama's names; the ranges are those of chat completions."""

    frequency_penalty: float | None = None
    min_p: float | None = None
    num_predict: Whole | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: Whole | None = None
    stop: Stops | None = None
    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None

    def sampling(self) -> dict[str, Any]:
        """Return the fields of a chat request."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in self.unused}
        # -1 and -2: without end, until the context is full.
        given["n_predict"] = -1 if (limit := given.pop("num_predict")) == -2 else limit
        return {name: value for name, value in given.items() if value is not None}


class CalledFunction(OpenModel):
    """What was called."""

    name: ToolName
    arguments: dict[str, Any] | None = None


class OllamaCall(OpenModel):
    """A call; most clients give it no id."""

    id: str | None = None
    function: CalledFunction


class OllamaMessage(OpenModel):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: NoPictures | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


def _kind(value: Any) -> str:
    return "a schema" if isinstance(value, dict) else "a string"


Format = Annotated[
    Annotated[Literal["json", ""], Tag("a string")] | Annotated[dict[str, Any], Tag("a schema")],
    Discriminator(_kind),
]


@accepting({"keep_alive": Unused(str | int | float), "truncate": Unused(bool), "shift": Unused(bool)})
class OllamaRequest(RequestModel):
    """What both have."""

    model: Name | None = None
    format: Format | None = None
    options: Options | None = None
    stream: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer is to be a stream: unless the request says no."""
        return self.stream is not False

    def _chat(self, messages: list[dict[str, Any]], tools: list[FunctionTool] | None = None) -> ChatRequest:
        form: dict[str, Any] | None = None
        if self.format == "json":
            form = {"type": "json_object"}
        elif isinstance(self.format, dict):
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.format}}
        return validated(
            ChatRequest,
            {
                "model": self.model,
                "messages": messages,
                "tools": [tool.model_dump() for tool in tools or []] or None,
                "response_format": form,
                "enable_thinking": None if self.think is None else bool(self.think),
                **(self.options.sampling() if self.options else {}),
            },
        )


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat; without messages it only asks whether the model is there."""

    messages: list[OllamaMessage] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None

    def chat(self) -> ChatRequest:
        """Return the chat request. Raises RequestError for what it cannot say."""
        return self._chat(list(_messages(self.messages or [])), self.tools)


class OllamaGenerateRequest(OllamaRequest):
    """POST /api/generate; without a prompt it only asks whether the model is there."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    images: NoPictures | None = None
    raw: bool | None = None
    context: Annotated[list[int], Field(max_length=0, description="Send messages to /api/chat.")] | None = (
        None
    )

    def chat(self) -> ChatRequest:
        """Return the chat request. Raises RequestError for what it cannot say."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._chat([*system, {"role": "user", "content": self.prompt or ""}])

    def completion(self) -> CompletionRequest:
        """Return the completion request: the prompt is finished, or text is missing before the suffix."""
        sampling = self.options.sampling() if self.options else {}
        limit = {} if sampling.get("n_predict", -1) != -1 else {"n_predict": MAX_TOKENS}
        fields = {"model": self.model, "prompt": self.prompt, "suffix": self.suffix or None}
        return validated(CompletionRequest, {**fields, **sampling, **limit})


def _messages(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """Messages with ids for calls: a result without one is that of the first call without a result."""
    made: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            entry["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [
                (call.id or f"call_{place}_{at}", call.function) for at, call in enumerate(message.tool_calls)
            ]
            open_calls = [(call_id, function.name) for call_id, function in calls]
            entry["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": function.name, "arguments": json.dumps(function.arguments or {})},
                }
                for call_id, function in calls
            ]
        if message.role == "tool":
            found = [
                call
                for call in open_calls
                if message.tool_call_id in (None, "", call[0]) and message.tool_name in (None, "", call[1])
            ]
            if not found:
                raise RequestError(
                    f"messages[{place}] has the result of a call that no message before it made",
                    f"messages[{place}]",
                )
            open_calls.remove(found[0])
            entry["tool_call_id"] = found[0][0]
        made.append(entry)
    return made
