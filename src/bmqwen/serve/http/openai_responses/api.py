"""/v1/responses."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from typing_extensions import NotRequired, TypedDict

from bmqwen.errors import RequestError
from bmqwen.generate.params import TokenLogprob
from bmqwen.generate.tool_calls import CallArguments, CallStart, Event
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.chat import answer_chat, message_of
from bmqwen.serve.http.openai_responses.request import LOGPROBS, ResponseRequest
from bmqwen.serve.http.openai_responses.store import KeptResponse, ResponseStore
from bmqwen.serve.http.responses import STREAM, Count, chat_logprobs
from bmqwen.serve.http.streaming import Framing, event_of
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Services

Item = dict[str, Any]


class InputDetails(TypedDict):
    """Tokens of the input that were cached."""

    cached_tokens: Count


class OutputDetails(TypedDict):
    """Tokens of the output that are thoughts."""

    reasoning_tokens: Count


class ResponseUsage(TypedDict):
    """Tokens read and written."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class IncompleteDetails(TypedDict):
    """Why an answer was cut."""

    reason: Literal["max_output_tokens"]


class ResponseAnswer(TypedDict):
    """A response: what was asked for, and items of thoughts, text and calls."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: str
    usage: ResponseUsage | None
    user: NotRequired[str | None]


class DeletedResponse(TypedDict):
    """A response that is forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(TypedDict):
    """A page of the items of a request."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def responses_api(services: Services) -> APIRouter:
    """Build the router. The conversations of responses are kept as long as it is."""
    api = APIRouter(prefix="/v1")
    store = ResponseStore()

    @api.post(
        "/responses",
        summary="Answer a conversation in items",
        response_model=ResponseAnswer,
        responses=STREAM,
    )
    async def respond(body: ResponseRequest, request: Request) -> Any:
        service = services.accept(body, request)
        owner = Caller.of(request, None).owner
        before = store.before(owner, body.previous_response_id) if body.previous_response_id else ()
        messages = [*before, *body.messages()]
        answers = await answer_chat(service, body.chat(messages), request)

        def keep(response: Mapping[str, Any], answer: Answer) -> None:
            if body.store is not False:
                whole = [*messages, message_of(answer)]
                store.put(owner, response["id"], KeptResponse(whole, response, body.items()))

        writer = ResponseWriter(service.model.name, body, answers, keep)
        return await answers.respond(writer, stream=bool(body.stream))

    @api.get("/responses/{name}", summary="A response that was given", response_model=ResponseAnswer)
    async def again(name: str, request: Request, stream: bool = False) -> Any:
        if stream:
            raise RequestError("a stored response can only be read as a whole: leave stream out", "stream")
        return store.find(Caller.of(request, None).owner, name).body

    @api.delete("/responses/{name}", summary="Forget a response")
    async def forget(name: str, request: Request) -> DeletedResponse:
        store.remove(Caller.of(request, None).owner, name)
        return {"id": name, "object": "response", "deleted": True}

    @api.get("/responses/{name}/input_items", summary="What a response was asked with")
    async def input_items(
        name: str,
        request: Request,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> InputItems:
        items = list(store.find(Caller.of(request, None).owner, name).input)
        items = items[::-1] if order == "desc" else items
        begin = next((place for place, item in enumerate(items, 1) if item["id"] == after), 0)
        page: list[Any] = items[begin : begin + limit]
        ids = [item["id"] for item in page]
        return {
            "object": "list",
            "data": page,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": len(items) > begin + limit,
        }

    return api


def _error(body: Mapping[str, Any]) -> bytes:
    error = {name: body["error"][name] for name in ("code", "message", "param")}
    return event_of({"type": "error", "sequence_number": 0, **error}, "error")


class ResponseWriter:
    """Tells an answer as a response: a stream has each item's beginning, its pieces and its end."""

    framing = Framing(b"text/event-stream; charset=utf-8", b": waiting\n\n", b"", _error)

    def __init__(self, model: str, body: ResponseRequest, answers: Answers, keep: Any) -> None:
        """`keep(response, answer)` is called with the whole answer."""
        self._answers, self._keep = answers, keep
        self._with_logprobs = LOGPROBS in (body.include or [])
        self._id = f"resp_{secrets.token_hex(12)}"
        asked = body.model_dump(by_alias=True, exclude_none=True)
        self._head: dict[str, Any] = {
            "id": self._id,
            "object": "response",
            "created_at": int(time.time()),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None} | asked.get("reasoning", {}),
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | asked.get("text", {}),
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": asked.get("tools", []),
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }
        self._number = 0
        self._items: list[Item] = []
        self._open = False

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:  # noqa: ARG002  (there is one answer)
        """Return events."""
        if isinstance(event, Started):
            response = {**self._head, "status": "in_progress"}
            return self._event("response.created", response=response) + self._event(
                "response.in_progress", response=response
            )
        if isinstance(event, Delta):
            return self._delta(event.event, event.logprobs)
        closed = self._close("incomplete" if event.finish_reason == "length" else "completed")
        response = self._response(event, self._items)
        return closed + self._event(f"response.{response['status']}", response=response)

    def last(self) -> bytes:
        """Return nothing: the answer's end is the stream's."""
        return b""

    def whole(self, answers: Sequence[Answer]) -> Any:
        """Return a ResponseAnswer."""
        (answer,) = answers
        items: list[Item] = []
        if answer.thoughts:
            items.append(_item("thought", answer.thoughts))
        if answer.text or not answer.calls:
            items.append(_item("text", answer.text, self._logprobs(answer.completion.logprobs)))
        items += [_call(call.id, call.name, call.arguments) for call in answer.calls]
        if answer.finish_reason == "length":
            items[-1]["status"] = "incomplete"
        return self._response(answer, items)

    def _response(self, answer: Answer, items: list[Item]) -> dict[str, Any]:
        usage = self._answers.counts()["usage"]
        cut = answer.finish_reason == "length"
        response = {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": items,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": answer.completion.usage.reasoning_tokens},
                "total_tokens": usage["total_tokens"],
            },
        }
        self._keep(response, answer)
        return response

    def _delta(self, event: Event, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        if isinstance(event, CallStart):
            return self._begin(_call(event.id, event.name, ""))
        if isinstance(event, CallArguments):
            self._items[-1]["arguments"] += event.text
            return self._piece("response.function_call_arguments.delta", delta=event.text)
        begun = b""
        kind = "reasoning" if event.kind == "thought" else "message"
        if not (self._open and self._items[-1]["type"] == kind):
            begun = self._begin(_item(event.kind, "", []))
        part = self._items[-1]["content"][0]
        part["text"] += event.text
        if kind == "reasoning":
            return begun + self._piece("response.reasoning_text.delta", content_index=0, delta=event.text)
        told = self._logprobs(logprobs)
        part["logprobs"] += told
        return begun + self._piece(
            "response.output_text.delta", content_index=0, delta=event.text, logprobs=told
        )

    def _begin(self, item: Item) -> bytes:
        """Open an item, whose part of text is empty as yet."""
        closed = self._close("completed")
        self._items.append(item)
        self._open = True
        place = len(self._items) - 1
        content: Item = {} if item["type"] == "function_call" else {"content": []}
        shown = {**item, **content, "status": "in_progress"}
        added = self._event("response.output_item.added", output_index=place, item=shown)
        if item["type"] == "message":
            added += self._piece("response.content_part.added", content_index=0, part=item["content"][0])
        return closed + added

    def _close(self, status: str) -> bytes:
        if not self._open:
            return b""
        self._open = False
        item, place = self._items[-1], len(self._items) - 1
        item["status"] = status
        if item["type"] == "function_call":
            told = self._piece(
                "response.function_call_arguments.done", name=item["name"], arguments=item["arguments"]
            )
        elif item["type"] == "reasoning":
            text = item["content"][0]["text"]
            told = self._piece("response.reasoning_text.done", content_index=0, text=text)
        else:
            part = item["content"][0]
            told = self._piece(
                "response.output_text.done", content_index=0, text=part["text"], logprobs=part["logprobs"]
            ) + self._piece("response.content_part.done", content_index=0, part=part)
        return told + self._event("response.output_item.done", output_index=place, item=item)

    def _piece(self, kind: str, **fields: Any) -> bytes:
        """An event of the newest item."""
        place = len(self._items) - 1
        return self._event(kind, item_id=self._items[-1]["id"], output_index=place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event_of({"type": kind, "sequence_number": self._number - 1, **fields}, kind)

    def _logprobs(self, items: tuple[TokenLogprob, ...]) -> list[Any]:
        return list(chat_logprobs(items)["content"]) if self._with_logprobs else []


def _item(kind: str, text: str, logprobs: Sequence[Any] = ()) -> Item:
    if kind == "thought":
        content = [{"type": "reasoning_text", "text": text}]
        return {
            "id": f"rs_{secrets.token_hex(12)}",
            "type": "reasoning",
            "summary": [],
            "content": content,
            "status": "completed",
        }
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "content": [part],
        "status": "completed",
    }


def _call(call_id: str, name: str, arguments: str) -> Item:
    return {
        "id": f"fc_{secrets.token_hex(12)}",
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }
