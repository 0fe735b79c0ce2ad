"""/v1/completions."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from bmqwen.generate.answer_parts import Part
from bmqwen.generate.params import TokenLogprob
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.protocol import CompletionRequest
from bmqwen.serve.http.responses import STREAM, TextAnswer, identity, text_logprobs
from bmqwen.serve.http.streaming import OPENAI, event_of
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service, Services


async def answer_completion(service: Service, body: CompletionRequest, request: Request) -> Answers:
    """Prepare the continuations of texts, however they were asked for. Raises as `answer_chat` does."""
    caller = Caller.of(request, body.user or body.safety_identifier)
    params = sampling_of(body, service.model.defaults, service.pool.check().vocab_size)
    prompts = await asyncio.to_thread(service.prompts.of_completion, body)
    if body.suffix:
        params = replace(params, stop_ids=service.prompts.fill_in_middle("suffix").stop_ids)
    return Answers(service, request, caller, prompts, params, choices=body.n or 1, chat=False)


def completion_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter(prefix="/v1")

    @api.post("/completions", summary="Continue a text", response_model=TextAnswer, responses=STREAM)
    async def complete(body: CompletionRequest, request: Request) -> Any:
        service = services.accept(body, request)
        answers = await answer_completion(service, body, request)
        return await answers.respond(CompletionWriter(service, body, answers), stream=bool(body.stream))

    return api


class CompletionWriter:
    """Tells answers as OpenAI's completions."""

    framing = OPENAI

    def __init__(self, service: Service, body: CompletionRequest, answers: Answers) -> None:
        self._answers, self._with_logprobs = answers, body.logprobs is not None
        self._head = identity("cmpl-", "text_completion", service.model.name, service.fingerprint)
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._tail = {"usage": None} if self._with_usage else {}
        self._offset = 0

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:
        """Return a chunk."""
        text, logprobs, finish = "", None, None
        if isinstance(event, Started):
            self._offset = 0
            return b""
        if isinstance(event, Answer):
            finish = event.finish_reason
        elif isinstance(event.event, Part):
            text = event.event.text
            logprobs = self._logprobs(event.logprobs, self._offset)
            self._offset += len(text)
        return event_of({**self._head, "choices": [_choice(index, text, logprobs, finish)], **self._tail})

    def last(self) -> bytes:
        """Return the chunk with the usage, if it is asked for."""
        if not self._with_usage:
            return b""
        return event_of({**self._head, "choices": [], **self._answers.counts()})

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return a TextAnswer."""
        choices = [
            _choice(index, answer.text, self._logprobs(answer.completion.logprobs), answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices, **self._answers.counts()}

    def _logprobs(self, items: tuple[TokenLogprob, ...], offset: int = 0) -> Any:
        """None where none are asked for."""
        return text_logprobs(items, offset) if self._with_logprobs else None


def _choice(index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
