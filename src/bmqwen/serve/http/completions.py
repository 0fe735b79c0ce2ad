"""/v1/chat/completions and /v1/completions."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob, Usage
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.protocol import ChatRequest, CompletionRequest
from bmqwen.serve.http.responses import (
    STREAM,
    ChatAnswer,
    TextAnswer,
    chat_logprobs,
    counts,
    text_logprobs,
)
from bmqwen.serve.http.streaming import EventStream, event_of, unless_left
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service


class Answering:
    """Answers one request with a service: each of its prompts, several times where it asks for that."""

    def __init__(
        self,
        service: Service,
        request: Request,
        caller: Caller,
        body: ChatRequest | CompletionRequest,
        prompts: list[list[int]],
        params: SamplingParams,
    ) -> None:
        self._service, self._request, self._caller = service, request, caller
        self._prompts, self._params, self._choices = prompts, params, body.n or 1
        self._chat = isinstance(body, ChatRequest)
        self._stream = bool(body.stream)
        options = body.stream_options
        self._with_usage = bool(options and options.include_usage)
        self._usages: list[Usage] = []
        self._queue_s = 0.0
        prefix, name = ("chatcmpl-", "chat.completion") if self._chat else ("cmpl-", "text_completion")
        part = ".chunk" if self._chat and self._stream else ""
        self._head = {
            "id": prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": service.model.name,
            "system_fingerprint": service.fingerprint,
            "object": name + part,
        }
        self._tail = {"usage": None} if self._with_usage else {}

    async def respond(self) -> Any:
        """Return a ChatAnswer or a TextAnswer, or a stream of its parts."""
        if self._stream:
            return EventStream(self._events())
        return await unless_left(self._whole(), self._request.receive)

    async def _whole(self) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for index, prompt, params in self._tasks():
            async with aclosing(self._service.generate(prompt, params, self._caller)) as events:
                choices += [
                    self._choice(index, self._ended(*event))
                    async for event in events
                    if isinstance(event, tuple)
                ]
        return {**self._head, "choices": choices, **counts(self._usages, len(self._prompts), self._queue_s)}

    async def _events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, each with a part of one choice."""
        for index, prompt, params in self._tasks():
            offset = 0
            async with aclosing(self._service.generate(prompt, params, self._caller)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        yield self._part(index, {"role": "assistant", "content": ""}) if self._chat else b""
                    elif isinstance(event, Piece):
                        logprobs = self._logprobs(event.logprobs, offset)
                        offset += len(event.text)
                        yield self._part(index, {"content": event.text}, logprobs)
                    else:
                        yield self._part(index, {}, finish=self._ended(*event).finish_reason)
        if self._with_usage:
            yield event_of(
                {**self._head, "choices": [], **counts(self._usages, len(self._prompts), self._queue_s)}
            )

    def _tasks(self) -> Iterator[tuple[int, list[int], SamplingParams]]:
        """Index, prompt and sampling of each choice; of several answers to one prompt each has a seed of its own."""
        seed = self._params.seed
        for place, prompt in enumerate(self._prompts):
            for choice in range(self._choices):
                own = None if seed is None else (seed + choice) % 2**64
                yield place * self._choices + choice, prompt, replace(self._params, seed=own)

    def _ended(self, completion: Completion, queue_s: float) -> Completion:
        self._usages.append(completion.usage)
        self._queue_s += queue_s
        read = sum(usage.prompt_tokens for usage in self._usages)
        written = sum(usage.completion_tokens for usage in self._usages)
        self._request.scope["note"] = f"{read}+{written} tokens"
        if self._chat:
            self._service.prompts.keep_answer(self._caller.owner, completion.text, completion.token_ids)
        return completion

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        shown: dict[str, Any] = {"text": completion.text}
        if self._chat:
            shown = {"message": {"role": "assistant", "content": completion.text, "refusal": None}}
        return self._entry(index, shown, self._logprobs(completion.logprobs), completion.finish_reason)

    def _part(
        self, index: int, delta: dict[str, str], logprobs: Any = None, finish: str | None = None
    ) -> bytes:
        shown = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        choice = self._entry(index, shown, logprobs, finish)
        return event_of({**self._head, "choices": [choice], **self._tail})

    def _entry(self, index: int, shown: Any, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": index, **shown, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, items: tuple[TokenLogprob, ...], offset: int = 0) -> Any:
        """None where none are asked for."""
        if self._params.logprobs is None:
            return None
        return chat_logprobs(items) if self._chat else text_logprobs(items, offset)


def generation_api(service: Service) -> APIRouter:
    """Build the router of both addresses."""
    api = APIRouter(prefix="/v1")

    @api.post(
        "/chat/completions", summary="Answer a conversation", response_model=ChatAnswer, responses=STREAM
    )
    async def chat(body: ChatRequest, request: Request) -> Any:
        service.accept(body, request)
        caller = Caller.of(request, body.user or body.safety_identifier)
        params = sampling_of(body, service.model.defaults, service.scheduler.check().vocab_size)
        prompt = await asyncio.to_thread(service.prompts.of_chat, body.messages, caller.owner)
        return await Answering(service, request, caller, body, [prompt], params).respond()

    @api.post("/completions", summary="Continue a text", response_model=TextAnswer, responses=STREAM)
    async def complete(body: CompletionRequest, request: Request) -> Any:
        service.accept(body, request)
        caller = Caller.of(request, body.user or body.safety_identifier)
        params = sampling_of(body, service.model.defaults, service.scheduler.check().vocab_size)
        prompts = await asyncio.to_thread(service.prompts.of_completion, body)
        return await Answering(service, request, caller, body, prompts, params).respond()

    return api
