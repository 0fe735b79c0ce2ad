"""/v1/chat/completions and /v1/completions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob
from bmqwen.serve.defaults import chat_params, completion_params
from bmqwen.serve.http.answer_bodies import Envelope, Kind, Totals, chat_logprobs, text_logprobs
from bmqwen.serve.http.answer_response import EventStream, Whole, event_of
from bmqwen.serve.http.protocol import ChatRequest, CompletionRequest
from bmqwen.serve.http.responses import STREAM, ChatAnswer, TextAnswer
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

    def __init__(self, service: Service, work: Work, request: Request, *, stream: bool) -> None:
        self._service, self._work, self._request = service, work, request
        self._totals = Totals()
        self._envelope = Envelope(
            work.kind,
            service.model.name,
            service.fingerprint,
            stream=stream,
            with_usage=work.with_usage,
        )

    async def whole(self) -> dict[str, Any]:
        """The answer as one document."""
        choices = []
        for index, prompt, params in self._tasks():
            completion = None
            async with aclosing(self._service.generate(prompt, params, self._work.caller)) as events:
                async for event in events:
                    if isinstance(event, tuple):
                        completion = self._ended(*event)
            if completion is not None:
                choices.append(self._choice(index, completion))
        return self._envelope.whole(choices, self._totals.bodies(len(self._work.prompts)))

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        chat = self._work.kind == "chat.completion"
        for index, prompt, params in self._tasks():
            offset = 0
            async with aclosing(self._service.generate(prompt, params, self._work.caller)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        yield (
                            self._envelope.event(index, {"role": "assistant", "content": ""}) if chat else b""
                        )
                    elif isinstance(event, Piece):
                        delta = {"content": event.text} if chat else event.text
                        logprobs = self._work.logprobs(event.logprobs, offset)
                        offset += len(event.text)
                        yield self._envelope.event(index, delta, logprobs)
                    else:
                        completion = self._ended(*event)
                        yield self._envelope.event(index, {} if chat else "", None, completion.finish_reason)
        if self._work.with_usage:
            yield event_of(self._envelope.whole([], self._totals.bodies(len(self._work.prompts))))

    def _tasks(self) -> list[tuple[int, list[int], SamplingParams]]:
        work = self._work
        return [
            (place * work.choices + choice, prompt, work.params_of(choice))
            for place, prompt in enumerate(work.prompts)
            for choice in range(work.choices)
        ]

    def _ended(self, completion: Completion, queue_s: float) -> Completion:
        self._totals.add(completion, queue_s)
        self._request.scope["note"] = self._totals.note()
        if self._work.kind == "chat.completion":
            self._service.prompts.keep_answer(self._work.caller.owner, completion.text, completion.token_ids)
        return completion

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        rest = {
            "logprobs": self._work.logprobs(completion.logprobs, 0),
            "finish_reason": completion.finish_reason,
        }
        if self._work.kind == "text_completion":
            return {"index": index, "text": completion.text, **rest}
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        return {"index": index, "message": message, **rest}


def generation_api(service: Service) -> APIRouter:
    """Both addresses."""
    api = APIRouter(prefix="/v1")

    @api.post(
        "/chat/completions", summary="Answer a conversation", response_model=ChatAnswer, responses=STREAM
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
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
        return _respond(service, work, request, stream=bool(body.stream))

    @api.post("/completions", summary="Continue a text", response_model=TextAnswer, responses=STREAM)
    async def complete(body: CompletionRequest, request: Request) -> Response:
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
        return _respond(service, work, request, stream=bool(body.stream))

    return api


def _respond(service: Service, work: Work, request: Request, *, stream: bool) -> Response:
    answering = Answering(service, work, request, stream=stream)
    return EventStream(answering.events) if stream else Whole(answering.whole)
