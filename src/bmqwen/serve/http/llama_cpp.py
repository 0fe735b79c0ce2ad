"""/infill and /completion, as llama.cpp's server has them for editors and other programs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from bmqwen.errors import UnsupportedFieldError
from bmqwen.generate.answer_parts import Part
from bmqwen.generate.fill_in_middle import Gap
from bmqwen.generate.params import SamplingParams, Usage
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.answers import Answer, Answers, Delta
from bmqwen.serve.http.completions import answer_completion
from bmqwen.serve.http.protocol import InfillRequest, LlamaCppCompletionRequest
from bmqwen.serve.http.responses import STREAM, LlamaCppAnswer
from bmqwen.serve.http.streaming import OPENAI, event_of
from bmqwen.serve.pool.job import Started
from bmqwen.serve.service import Caller, Service, Services

# Enough for some lines, where a request does not say more.
MOST_TOKENS = 256


def llama_cpp_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter()

    @api.post("/infill", summary="Fill in the middle of a text", response_model=None, responses=_RESPONSES)
    async def infill(body: InfillRequest, request: Request) -> Any:
        service = services.accept(body, request)
        caller = Caller.of(request, body.user or body.safety_identifier)
        fill = service.prompts.fill_in_middle("input_suffix")
        params = replace(_sampling(service, body), stop_ids=fill.stop_ids)
        gap = Gap(
            body.input_prefix + (body.prompt or ""),
            body.input_suffix,
            [(file.filename, file.text) for file in body.input_extra or ()],
        )
        prompt, cut = await asyncio.to_thread(service.prompts.of_gap, gap, params.max_tokens or 0)
        choices = body.n_cmpl or body.n or 1
        answers = Answers(service, request, caller, [prompt], params, choices=choices, chat=False)
        writer = LlamaCppWriter(service, body.response_fields, cut=cut)
        return await answers.respond(writer, stream=bool(body.stream))

    @api.post(
        "/completion", summary="Continue a text, as llama.cpp does", response_model=None, responses=_RESPONSES
    )
    async def complete(body: LlamaCppCompletionRequest, request: Request) -> Any:
        service = services.accept(body, request)
        answers = await answer_completion(service, body, request)
        return await answers.respond(LlamaCppWriter(service, body.response_fields), stream=bool(body.stream))

    return api


def _sampling(service: Service, body: InfillRequest) -> SamplingParams:
    defaults = replace(service.model.defaults, max_tokens=MOST_TOKENS)
    params = sampling_of(body, defaults, service.pool.check().vocab_size)
    if body.samplers is not None:
        if body.samplers and "infill" not in body.samplers:
            raise UnsupportedFieldError(
                "samplers must contain infill, which always takes the most likely token; to sample, leave samplers out",
                "samplers",
            )
        if params.max_tokens:
            params = replace(SamplingParams(max_tokens=params.max_tokens), seed=params.seed, stop=params.stop)
    seconds = None if body.t_max_predict_ms is None else body.t_max_predict_ms / 1000
    return replace(params, line_seconds=seconds, least_indent=body.n_indent or 0)


class LlamaCppWriter:
    """Tells answers as llama.cpp's server."""

    framing = replace(OPENAI, done=b"")

    def __init__(self, service: Service, fields: Sequence[str] | None, *, cut: bool = False) -> None:
        """`fields` are those that the request wants; `cut`: some of its text was left out."""
        self._model, self._fields, self._cut = service.model.name, fields, cut

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:
        """Return an event."""
        if isinstance(event, Answer):
            return event_of(self._chosen(self._told(index, "", event)))
        if isinstance(event, Delta) and isinstance(event.event, Part):
            return event_of({"index": index, "content": event.event.text, "stop": False})
        return b""

    def last(self) -> bytes:
        """Return nothing: each answer's last event has its counts."""
        return b""

    def whole(self, answers: Sequence[Answer]) -> Any:
        """Return a LlamaCppAnswer, or a list of several."""
        bodies = [
            self._chosen(self._told(index, answer.text, answer)) for index, answer in enumerate(answers)
        ]
        return bodies[0] if len(bodies) == 1 else bodies

    def _told(self, index: int, content: str, answer: Answer) -> LlamaCppAnswer:
        usage = answer.completion.usage
        return {
            "index": index,
            "content": content,
            "stop": True,
            "stop_type": "limit" if answer.finish_reason == "length" else "eos",
            "model": self._model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "truncated": self._cut,
            "timings": _timings(usage),
        }

    def _chosen(self, body: Mapping[str, Any]) -> Any:
        """The fields that the request wants, those of others by "timings/prompt_n"; all where it does not say."""
        if self._fields is None:
            return body
        found = {}
        for path in self._fields:
            value: Any = body
            for name in path.split("/"):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                found[path] = value
        return found


def _timings(usage: Usage) -> dict[str, float]:
    """As llama.cpp names them."""
    found: dict[str, float] = {}
    counts = (
        ("prompt", usage.prompt_tokens - usage.cached_tokens, usage.first_token_s),
        ("predicted", usage.completion_tokens, usage.decode_s),
    )
    for name, count, seconds in counts:
        found |= {
            f"{name}_n": count,
            f"{name}_ms": round(1000 * seconds, 3),
            f"{name}_per_token_ms": round(1000 * seconds / count, 3) if count else 0.0,
            f"{name}_per_second": round(count / seconds, 3) if seconds else 0.0,
        }
    return found


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {**STREAM[200], "model": LlamaCppAnswer | list[LlamaCppAnswer]}
}
