"""/v1/messages and the count of its tokens."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic_core import from_json
from typing_extensions import NotRequired, TypedDict

from bmqwen.generate.answer_parts import Part
from bmqwen.generate.tool_calls import CallStart, Event
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.anthropic.request import CountRequest, MessagesRequest
from bmqwen.serve.http.chat import answer_chat
from bmqwen.serve.http.responses import ANTHROPIC_ERRORS, STREAM, Count
from bmqwen.serve.http.streaming import Framing, event_of
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service, Services

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(TypedDict):
    """Tokens read, without those that were cached, and written."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


class MessageBlock(TypedDict):
    """Text, thoughts or a call."""

    type: Literal["text", "thinking", "tool_use"]
    text: NotRequired[str]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    id: NotRequired[str]
    name: NotRequired[str]
    input: NotRequired[dict[str, Any]]


class MessageAnswer(TypedDict):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessageBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(TypedDict):
    """Tokens of a prompt."""

    input_tokens: Count


def anthropic_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter(prefix="/v1/messages", responses=ANTHROPIC_ERRORS)

    @api.post("", summary="Anthropic: answer a conversation", response_model=MessageAnswer, responses=STREAM)
    async def messages(body: MessagesRequest, request: Request) -> Any:
        service = services.accept(body, request)
        answers = await answer_chat(service, body.chat(), request)
        return await answers.respond(MessageWriter(service, answers), stream=bool(body.stream))

    @api.post("/count_tokens", summary="Anthropic: count a prompt's tokens")
    async def count_tokens(body: CountRequest, request: Request) -> TokenCount:
        service = services.accept(body, request)
        service.pool.check()
        chat = body.chat()
        ids = await asyncio.to_thread(
            service.prompts.of_chat,
            chat.messages,
            Caller.of(request, None).owner,
            chat.tools or (),
            fitting=False,
        )
        return {"input_tokens": len(ids)}

    return api


def _event(body: dict[str, Any]) -> bytes:
    return event_of(body, body["type"])


class MessageWriter:
    """Tells an answer as Anthropic's messages: a stream has each block's start, pieces and end."""

    framing = Framing(
        b"text/event-stream; charset=utf-8",
        _event({"type": "ping"}),
        b"",
        lambda error: event_of(error, "error"),
    )

    def __init__(self, service: Service, answers: Answers) -> None:
        self._answers = answers
        self._head = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": service.model.name,
        }
        self._index = -1
        self._open = ""  # the kind of the block that is open

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:  # noqa: ARG002  (there is one answer)
        """Return events."""
        if isinstance(event, Started):
            read = len(self._answers.prompts[0])
            usage = {
                "input_tokens": read,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            }
            message: dict[str, Any] = {
                **self._head,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            }
            return _event({"type": "message_start", "message": message})
        if isinstance(event, Delta):
            return self._delta(event.event)
        delta = {"stop_reason": _reason(event), "stop_sequence": event.completion.stop}
        return (
            self._close()
            + _event({"type": "message_delta", "delta": delta, "usage": self._usage()})
            + _event({"type": "message_stop"})
        )

    def last(self) -> bytes:
        """Return nothing: the answer's end is the stream's."""
        return b""

    def whole(self, answers: Sequence[Answer]) -> MessageAnswer:
        """Return a MessageAnswer."""
        (answer,) = answers
        content: list[MessageBlock] = []
        if answer.thoughts:
            content.append({"type": "thinking", "thinking": answer.thoughts, "signature": ""})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        content += [
            {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                # What the length has cut is as much of the object as there is.
                "input": from_json(call.arguments or "{}", allow_partial=True),
            }
            for call in answer.calls
        ]
        made: Any = {
            **self._head,
            "content": content,
            "stop_reason": _reason(answer),
            "stop_sequence": answer.completion.stop,
            "usage": self._usage(),
        }
        answered: MessageAnswer = made
        return answered

    def _delta(self, event: Event) -> bytes:
        if isinstance(event, CallStart):
            return self._start("call", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})
        if not isinstance(event, Part):
            return self._piece({"type": "input_json_delta", "partial_json": event.text})
        if not event.text:
            return b""
        started = b""
        if self._open != event.kind:
            thought: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
            started = self._start(
                event.kind, thought if event.kind == "thought" else {"type": "text", "text": ""}
            )
        if event.kind == "thought":
            return started + self._piece({"type": "thinking_delta", "thinking": event.text})
        return started + self._piece({"type": "text_delta", "text": event.text})

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        closed = self._close()
        self._open = kind
        self._index += 1
        return closed + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _piece(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        was, self._open = self._open, ""
        return _event({"type": "content_block_stop", "index": self._index}) if was else b""

    def _usage(self) -> MessageUsage:
        usage = self._answers.counts()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }


def _reason(answer: Answer) -> StopReason:
    if answer.completion.stop is not None and not answer.calls:
        return "stop_sequence"
    reasons: dict[str, StopReason] = {"length": "max_tokens", "tool_calls": "tool_use"}
    return reasons.get(answer.finish_reason, "end_turn")
