"""/api/chat, /api/generate, and what Ollama's clients ask about models."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic_core import from_json
from typing_extensions import NotRequired, TypedDict

from bmqwen.errors import NotOfferedError
from bmqwen.generate.answer_parts import Part
from bmqwen.generate.tool_calls import CallArguments, CallStart, Event, ToolCall
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.chat import answer_chat
from bmqwen.serve.http.completions import answer_completion
from bmqwen.serve.http.errors import json_bytes
from bmqwen.serve.http.fields import RequestModel
from bmqwen.serve.http.ollama.embed import add_embeddings
from bmqwen.serve.http.ollama.request import Name, OllamaChatRequest, OllamaGenerateRequest
from bmqwen.serve.http.responses import LINES, OLLAMA_ERRORS, Count
from bmqwen.serve.http.streaming import Framing
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Service, Services

# Of Ollama, whose API this is; clients ask for it before they send tools or thoughts.
API_VERSION = "0.12.6"
_NOT_HERE = {
    "pull": "this server has one model; fetch another one with bmqwen pull, and start a server with it",
    "push": "this server has no registry",
    "create": "this server has one model: start it with another one",
    "copy": "this server has one model",
    "delete": "this server has one model; remove models with bmqwen rm",
}


class OllamaFunction(TypedDict):
    """What is to be called."""

    name: str
    arguments: dict[str, Any]


class OllamaCall(TypedDict):
    """A call, which the client is to run."""

    id: str
    function: OllamaFunction


class OllamaMessage(TypedDict):
    """What the model thought, said and calls."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[OllamaCall]]


class OllamaTimes(TypedDict, total=False):
    """The end of an answer; times in nanoseconds."""

    done_reason: Literal["stop", "length", "load"]
    total_duration: Count
    load_duration: Count
    prompt_eval_count: Count
    prompt_eval_duration: Count
    eval_count: Count
    eval_duration: Count


class OllamaChatAnswer(OllamaTimes):
    """An answer, or in a stream a piece of it."""

    model: str
    created_at: str
    message: OllamaMessage
    done: bool


class OllamaGenerateAnswer(OllamaTimes):
    """A text, or in a stream a piece of it."""

    model: str
    created_at: str
    response: str
    thinking: NotRequired[str]
    done: bool


class OllamaDetails(TypedDict):
    """What a model is."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(TypedDict):
    """A model, and where it is loaded what it takes."""

    name: str
    model: str
    modified_at: str
    size: Count
    digest: str
    details: OllamaDetails
    expires_at: NotRequired[str]
    size_vram: NotRequired[Count]
    context_length: NotRequired[Count]


class OllamaModels(TypedDict):
    """All models."""

    models: list[OllamaModel]


class OllamaShown(TypedDict):
    """All about a model."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(TypedDict):
    """Of the API."""

    version: str


class ShowRequest(RequestModel):
    """POST /api/show."""

    model: Name | None = None
    name: Name | None = None
    verbose: bool | None = None


def ollama_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter(prefix="/api", responses=OLLAMA_ERRORS)

    @api.post(
        "/chat", summary="Ollama: answer a conversation", response_model=OllamaChatAnswer, responses=LINES
    )
    async def chat(body: OllamaChatRequest, request: Request) -> Any:
        service = services.accept(body, request)
        if not body.messages:
            return OllamaWriter(service, None, chat=True).loaded()
        answers = await answer_chat(service, body.chat(), request)
        return await answers.respond(OllamaWriter(service, answers, chat=True), stream=body.streams)

    @api.post(
        "/generate", summary="Ollama: answer a text", response_model=OllamaGenerateAnswer, responses=LINES
    )
    async def generate(body: OllamaGenerateRequest, request: Request) -> Any:
        service = services.accept(body, request)
        if not body.prompt:
            return OllamaWriter(service, None, chat=False).loaded()
        if body.raw or body.suffix:
            answers = await answer_completion(service, body.completion(), request)
        else:
            answers = await answer_chat(service, body.chat(), request)
        return await answers.respond(OllamaWriter(service, answers, chat=False), stream=body.streams)

    @api.get("/tags", summary="Ollama: the models that are served")
    async def tags() -> OllamaModels:
        return {"models": [_model(service) for service in services]}

    @api.get("/ps", summary="Ollama: the models that are loaded")
    async def ps() -> OllamaModels:
        loaded: list[OllamaModel] = [
            {
                **_model(service),
                "expires_at": "9999-12-31T23:59:59Z",
                "size_vram": 0,
                "context_length": facts.context_length,
            }
            for service in services
            if (facts := service.pool.facts) is not None
        ]
        return {"models": loaded}

    @api.post("/show", summary="Ollama: all about a model")
    async def show(body: ShowRequest) -> OllamaShown:
        service = services.find(body.model or body.name)
        model, facts = service.model, service.pool.check()
        capabilities = ["completion", *(["tools"] if model.template.has_tools else [])]
        family = _details(service)["family"]
        return {
            "modelfile": "",
            "parameters": "",
            "template": model.template.source,
            "details": _details(service),
            "model_info": {"general.architecture": family, f"{family}.context_length": facts.context_length},
            "capabilities": capabilities,
            "modified_at": _time(model.created),
        }

    @api.get("/version", summary="Ollama: the version of the API")
    async def version() -> OllamaVersion:
        return {"version": API_VERSION}

    add_embeddings(api, services)
    for name, reason in _NOT_HERE.items():

        async def refuse(reason: str = reason) -> None:
            raise NotOfferedError(reason)

        api.add_api_route(f"/{name}", refuse, methods=["POST", "DELETE"], include_in_schema=False)
    return api


def _line(body: Any) -> bytes:
    return json_bytes(body) + b"\n"


class OllamaWriter:
    """Tells an answer in lines of JSON; a call comes when it is whole."""

    framing = Framing(b"application/x-ndjson", b"", b"", _line)

    def __init__(self, service: Service, answers: Answers | None, *, chat: bool) -> None:
        """`chat`: an answer has messages, else text."""
        self._service, self._answers, self._chat = service, answers, chat
        self._call: ToolCall | None = None

    def loaded(self) -> Any:
        """Return what an empty request gets."""
        return self._body("", done=True) | {"done_reason": "load"}

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:  # noqa: ARG002  (there is one answer)
        """Return a line, if there is something to tell."""
        if isinstance(event, Started):
            return b""
        if isinstance(event, Answer):
            return self._whole_call() + _line(self._body("", done=True) | self._end(event))
        return self._delta(event.event)

    def last(self) -> bytes:
        """Return nothing: the answer's end is the stream's."""
        return b""

    def whole(self, answers: Sequence[Answer]) -> Any:
        """Return an OllamaChatAnswer or an OllamaGenerateAnswer."""
        (answer,) = answers
        return self._body(answer.text, answer.thoughts, answer.calls, done=True) | self._end(answer)

    def _delta(self, event: Event) -> bytes:
        if isinstance(event, CallStart):
            before, self._call = self._whole_call(), ToolCall(event.id, event.name, "")
            return before
        if isinstance(event, CallArguments):
            if self._call is not None:
                self._call = ToolCall(self._call.id, self._call.name, self._call.arguments + event.text)
            return b""
        before = self._whole_call()
        if isinstance(event, Part) and event.kind == "thought":
            return before + _line(self._body("", event.text))
        return before + (_line(self._body(event.text)) if event.text else b"")

    def _whole_call(self) -> bytes:
        call, self._call = self._call, None
        return b"" if call is None else _line(self._body("", calls=[call]))

    def _body(
        self, text: str, thoughts: str = "", calls: Sequence[ToolCall] = (), *, done: bool = False
    ) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        head = {"model": self._service.model.name, "created_at": now, "done": done}
        thinking = {"thinking": thoughts} if thoughts else {}
        if not self._chat:
            return {**head, "response": text, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": text, **thinking}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "function": {
                        "name": call.name,
                        # What the length has cut is as much of the object as there is.
                        "arguments": from_json(call.arguments or "{}", allow_partial=True),
                    },
                }
                for call in calls
            ]
        return {**head, "message": message}

    def _end(self, answer: Answer) -> dict[str, Any]:
        usage = answer.completion.usage
        first, rest = round(usage.first_token_s * 1e9), round(usage.decode_s * 1e9)
        return {
            "done_reason": "length" if answer.finish_reason == "length" else "stop",
            "total_duration": first + rest,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first,
            "eval_count": usage.completion_tokens,
            "eval_duration": rest,
        }


def _details(service: Service) -> OllamaDetails:
    family = "qwen3" if "qwen3" in service.model.name.lower() else "qwen2"
    return {
        "parent_model": "",
        "format": "bmqwen",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": service.model.precision,
    }


def _model(service: Service) -> OllamaModel:
    name = service.model.name
    return {
        "name": name,
        "model": name,
        "modified_at": _time(service.model.created),
        "size": 0,
        "digest": hashlib.sha256(f"{name} {service.fingerprint}".encode()).hexdigest(),
        "details": _details(service),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
