"""/v1/chat/completions."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from bmqwen.generate.answer_parts import Part
from bmqwen.generate.params import TokenLogprob, template_variables
from bmqwen.generate.tool_calls import CallStart, Event, ToolCall
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.protocol import ChatRequest
from bmqwen.serve.http.responses import STREAM, ChatAnswer, chat_logprobs, identity
from bmqwen.serve.http.streaming import OPENAI, event_of
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service, Services


async def answer_chat(service: Service, body: ChatRequest, request: Request) -> Answers:
    """Prepare the answers to a conversation, however it was asked for.

    Raises:
        RequestError: fields that do not fit together, or messages that cannot be read.
        ContextLengthError: the messages leave no room for an answer.
        NotReadyError: no model yet, or shutting down.
    """
    caller = Caller.of(request, body.user or body.safety_identifier)
    params = sampling_of(body, service.model.defaults, service.pool.check().vocab_size)
    tools = () if params.tools is None else body.tools or ()
    variables = {**template_variables(params), **(body.chat_template_kwargs or {})}
    prompt = await asyncio.to_thread(
        service.prompts.of_chat, body.messages, caller.owner, tools, variables=variables
    )
    template = service.model.template
    rules = params.tools and replace(params.tools, xml=template.has_xml_calls)
    params = replace(params, thoughts=template.thinks, tools=rules)
    return Answers(service, request, caller, [prompt], params, choices=body.n or 1)


def chat_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter(prefix="/v1")

    @api.post(
        "/chat/completions", summary="Answer a conversation", response_model=ChatAnswer, responses=STREAM
    )
    async def chat(body: ChatRequest, request: Request) -> Any:
        service = services.accept(body, request)
        answers = await answer_chat(service, body, request)
        return await answers.respond(ChatWriter(service, body, answers), stream=bool(body.stream))

    return api


class ChatWriter:
    """Tells answers as OpenAI's chat completions."""

    framing = OPENAI

    def __init__(self, service: Service, body: ChatRequest, answers: Answers) -> None:
        self._answers, self._with_logprobs = answers, bool(body.logprobs)
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self._head = identity("chatcmpl-", kind, service.model.name, service.fingerprint)
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._tail = {"usage": None} if self._with_usage else {}

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:
        """Return a chunk."""
        if isinstance(event, Started):
            return self._chunk(index, {"role": "assistant", "content": ""})
        if isinstance(event, Answer):
            return self._chunk(index, {}, finish=event.finish_reason)
        return self._chunk(index, _delta(event.event), self._logprobs(event.logprobs))

    def last(self) -> bytes:
        """Return the chunk with the usage, if it is asked for."""
        if not self._with_usage:
            return b""
        return event_of({**self._head, "choices": [], **self._answers.counts()})

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return a ChatAnswer."""
        choices = []
        for index, answer in enumerate(answers):
            logprobs = self._logprobs(answer.completion.logprobs)
            choices.append(
                {
                    "index": index,
                    "message": {**message_of(answer), "refusal": None},
                    "logprobs": logprobs,
                    "finish_reason": answer.finish_reason,
                }
            )
        return {**self._head, "choices": choices, **self._answers.counts()}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event_of({**self._head, "choices": [choice], **self._tail})

    def _logprobs(self, items: tuple[TokenLogprob, ...]) -> Any:
        """None where none are asked for."""
        return chat_logprobs(items) if self._with_logprobs else None


def message_of(answer: Answer) -> dict[str, Any]:
    """Return an answer as a message of a chat."""
    content = answer.text if answer.text or not answer.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return message


def _delta(event: Event) -> dict[str, Any]:
    if isinstance(event, Part):
        return {"reasoning_content" if event.kind == "thought" else "content": event.text}
    if isinstance(event, CallStart):
        call = {"index": event.index, **_call(ToolCall(event.id, event.name, ""))}
    else:
        call = {"index": event.index, "function": {"arguments": event.text}}
    return {"tool_calls": [call]}


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
