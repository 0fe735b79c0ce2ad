"""/v1/chat/completions and /v1/completions."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request

from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob
from bmqwen.serve.defaults import chat_params, completion_params
from bmqwen.serve.http.protocol import ChatRequest, CompletionRequest
from bmqwen.serve.http.responses import (
    STREAM,
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    Finish,
    Kind,
    TextAnswer,
    TextChoice,
    TextChunkChoice,
    Totals,
    chat_logprobs,
    identity,
    text_logprobs,
)
from bmqwen.serve.http.streaming import EventStream, event_of, unless_left
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks for: answers to each prompt, several to each where `choices` says so."""

    kind: Kind
    prompts: list[list[int]]
    params: SamplingParams
    choices: int
    caller: Caller
    with_usage: bool

    def params_of(self, choice: int) -> SamplingParams:
        """Of several answers to one prompt each has a seed of its own."""
        seed = self.params.seed
        return self.params if seed is None else replace(self.params, seed=(seed + choice) % 2**64)

    def logprobs(self, items: tuple[TokenLogprob, ...], offset: int) -> Any:
        """In the shape of the kind; None where none are asked for."""
        if self.params.logprobs is None:
            return None
        return chat_logprobs(items) if self.kind == "chat.completion" else text_logprobs(items, offset)


class Answering:
    """Answers the work of one request with a service."""

    def __init__(self, service: Service, work: Work, request: Request) -> None:
        self._service, self._work, self._request = service, work, request
        self._totals = Totals()
        self._identity = identity(work.kind, service.model.name, service.fingerprint)

    async def whole(self) -> dict[str, Any]:
        """The answer as one document, a ChatAnswer or a TextAnswer."""
        choices: list[ChatChoice | TextChoice] = []
        for index, prompt, params in self._tasks():
            async with aclosing(self._service.generate(prompt, params, self._work.caller)) as events:
                choices += [
                    self._choice(index, self._ended(*event))
                    async for event in events
                    if isinstance(event, tuple)
                ]
        return {**self._identity, "object": self._work.kind, "choices": choices, **self._counts()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, each a ChatChunk or a TextChunk."""
        chat = self._work.kind == "chat.completion"
        head = {**self._identity, "object": f"{self._work.kind}.chunk" if chat else self._work.kind}
        tail = {"usage": None} if self._work.with_usage else {}

        def part(choice: ChatChunkChoice | TextChunkChoice) -> bytes:
            return event_of({**head, "choices": [choice], **tail})

        for index, prompt, params in self._tasks():
            offset = 0
            async with aclosing(self._service.generate(prompt, params, self._work.caller)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        yield part(_chat_part(index, {"role": "assistant", "content": ""})) if chat else b""
                    elif isinstance(event, Piece):
                        logprobs = self._work.logprobs(event.logprobs, offset)
                        offset += len(event.text)
                        yield part(
                            _chat_part(index, {"content": event.text}, logprobs)
                            if chat
                            else _text_part(index, event.text, logprobs)
                        )
                    else:
                        finish = _finish(self._ended(*event))
                        yield part(
                            _chat_part(index, {}, None, finish)
                            if chat
                            else _text_part(index, "", None, finish)
                        )
        if self._work.with_usage:
            yield event_of({**head, "choices": [], **self._counts()})

    def _tasks(self) -> list[tuple[int, list[int], SamplingParams]]:
        work = self._work
        return [
            (place * work.choices + choice, prompt, work.params_of(choice))
            for place, prompt in enumerate(work.prompts)
            for choice in range(work.choices)
        ]

    def _counts(self) -> dict[str, Any]:
        prompts = len(self._work.prompts)
        return {"usage": self._totals.usage(prompts), "timings": self._totals.timings(prompts)}

    def _ended(self, completion: Completion, queue_s: float) -> Completion:
        self._totals.add(completion, queue_s)
        self._request.scope["note"] = self._totals.note()
        if self._work.kind == "chat.completion":
            self._service.prompts.keep_answer(self._work.caller.owner, completion.text, completion.token_ids)
        return completion

    def _choice(self, index: int, completion: Completion) -> ChatChoice | TextChoice:
        logprobs, finish = self._work.logprobs(completion.logprobs, 0), _finish(completion)
        if self._work.kind == "text_completion":
            return {"index": index, "text": completion.text, "logprobs": logprobs, "finish_reason": finish}
        message: AnswerMessage = {"role": "assistant", "content": completion.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def _chat_part(
    index: int, delta: ChatDelta, logprobs: Any = None, finish: Finish | None = None
) -> ChatChunkChoice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _text_part(index: int, text: str, logprobs: Any, finish: Finish | None = None) -> TextChunkChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _finish(completion: Completion) -> Finish:
    """Why it ended; whoever cancelled it gets no answer."""
    return "stop" if completion.finish_reason == "stop" else "length"


def generation_api(service: Service) -> APIRouter:
    """Both addresses."""
    api = APIRouter(prefix="/v1")

    @api.post(
        "/chat/completions", summary="Answer a conversation", response_model=ChatAnswer, responses=STREAM
    )
    async def chat(body: ChatRequest, request: Request) -> Any:
        service.check_model(body.model)
        caller = Caller.of(request, body.user or body.safety_identifier)
        params = chat_params(body, service.model.defaults, service.scheduler.check().vocab_size)
        prompt = await asyncio.to_thread(service.prompts.of_chat, body.messages, caller.owner)
        options = body.stream_options
        work = Work(
            "chat.completion",
            [prompt],
            params,
            body.n or 1,
            caller,
            bool(body.stream and options and options.include_usage),
        )
        return await _respond(service, work, request, stream=bool(body.stream))

    @api.post("/completions", summary="Continue a text", response_model=TextAnswer, responses=STREAM)
    async def complete(body: CompletionRequest, request: Request) -> Any:
        service.check_model(body.model)
        caller = Caller.of(request, body.user)
        vocab_size = service.scheduler.check().vocab_size
        params = completion_params(body, service.model.defaults, vocab_size)
        prompts = await asyncio.to_thread(service.prompts.of_completion, body)
        options = body.stream_options
        work = Work(
            "text_completion",
            prompts,
            params,
            body.n or 1,
            caller,
            bool(body.stream and options and options.include_usage),
        )
        return await _respond(service, work, request, stream=bool(body.stream))

    return api


async def _respond(service: Service, work: Work, request: Request, *, stream: bool) -> Any:
    answering = Answering(service, work, request)
    if stream:
        return EventStream(answering.events())
    return await unless_left(answering.whole(), request.receive)
