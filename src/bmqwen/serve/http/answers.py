"""The answers to one request, as every API tells them in its own way."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import Request

from bmqwen.generate.answer_parts import Part
from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob, Usage
from bmqwen.generate.tool_calls import AnswerReader, CallArguments, CallStart, Event, ToolCall
from bmqwen.serve.http.kept_answers import HEADER
from bmqwen.serve.http.responses import Counts, Finish, counts
from bmqwen.serve.http.streaming import EventStream, Framing, unless_left
from bmqwen.serve.pool.job import Job, Started
from bmqwen.serve.service import Caller, Service


@dataclass(frozen=True, slots=True)
class Delta:
    """A new piece of an answer's thoughts, its text or its calls."""

    event: Event
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; its text is that of all of its deltas."""

    text: str
    thoughts: str
    calls: tuple[ToolCall, ...]
    finish_reason: Finish
    completion: Completion


class Writer(Protocol):
    """Tells answers in the way of one API."""

    framing: Framing

    def part(self, index: int, event: Started | Delta | Answer) -> bytes:
        """Return what a stream has of an event of the index-th answer; the Answer is its last."""

    def last(self) -> bytes:
        """Return what a stream has after all answers."""

    def whole(self, answers: Sequence[Answer]) -> Any:
        """Return the body of a response that is no stream."""


class Answers:
    """Answers one request with a service: each of its prompts, several times where it asks for that.

    Attributes:
        prompts: token ids.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        caller: Caller,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        *,
        choices: int = 1,
        chat: bool = True,
    ) -> None:
        """`chat`: the answers are kept for when they come back in a prompt."""
        self.prompts = prompts
        self._service, self._request, self._caller = service, request, caller
        self._params, self._choices, self._chat = params, choices, chat
        self._usages: list[Usage] = []
        self._queue_s = 0.0
        self._job: Job | None = None

    async def respond(self, writer: Writer, *, stream: bool) -> Any:
        """Return the body of a response, or a stream."""
        if stream:
            events, name = self._written(writer), self._request.headers.get(HEADER)
            if name:
                events = self._service.kept.keep(self._caller.owner, name, events, self._progress)
            return EventStream(events, writer.framing)
        return await unless_left(self._whole(writer), self._request.receive)

    async def events(self) -> AsyncGenerator[tuple[int, Started | Delta | Answer], None]:
        """Yield what happens to each answer, by its index, the Answer last."""
        for index, prompt, params in self._tasks():
            told = _Told(params)
            async with aclosing(
                self._service.generate(prompt, params, self._caller, self._note_job)
            ) as events:
                async for event in events:
                    if isinstance(event, Started):
                        yield index, event
                    elif isinstance(event, Piece):
                        for delta in told.push(event):
                            yield index, delta
                    else:
                        for delta in told.finish():
                            yield index, delta
                        yield index, self._ended(told, *event)

    def counts(self) -> Counts:
        """Return tokens and times of all answers."""
        return counts(self._usages, len(self.prompts), self._queue_s)

    def _note_job(self, job: Job) -> None:
        self._job = job

    def _progress(self) -> str:
        return "" if self._job is None else self._service.progress(self._job)

    async def _whole(self, writer: Writer) -> Any:
        async with aclosing(self.events()) as events:
            return writer.whole([event async for _, event in events if isinstance(event, Answer)])

    async def _written(self, writer: Writer) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.events()) as events:
            async for index, event in events:
                yield writer.part(index, event)
        if last := writer.last():
            yield last

    def _tasks(self) -> Iterator[tuple[int, list[int], SamplingParams]]:
        """Index, prompt and sampling of each choice; of several answers to one prompt each has a seed of its own."""
        seed = self._params.seed
        for place, prompt in enumerate(self.prompts):
            for choice in range(self._choices):
                own = None if seed is None else (seed + choice) % 2**64
                yield place * self._choices + choice, prompt, replace(self._params, seed=own)

    def _ended(self, told: "_Told", completion: Completion, queue_s: float) -> Answer:
        self._usages.append(completion.usage)
        self._queue_s += queue_s
        read = sum(usage.prompt_tokens for usage in self._usages)
        written = sum(usage.completion_tokens for usage in self._usages)
        self._request.scope["note"] = f"{read}+{written} tokens"
        answer = told.answer(completion)
        whole = answer.finish_reason == "tool_calls" and not self._params.stop
        if self._chat and (whole or not answer.calls):
            self._service.prompts.keep_answer(
                self._caller.owner, answer.text, completion.answer_ids, answer.calls
            )
        return answer


class _Told:
    """What was told of one answer."""

    def __init__(self, params: SamplingParams) -> None:
        tools = () if params.tools is None else params.tools.tools
        self._reader = AnswerReader({tool.name: tool.schema for tool in tools})
        self._events: list[Event] = []
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def push(self, piece: Piece) -> list[Delta]:
        if piece.kind == "thought":
            return self._told([Part("thought", piece.text)])
        self._logprobs += piece.logprobs
        return self._told(self._reader.push(piece.text))

    def finish(self) -> list[Delta]:
        events = self._reader.finish()
        return self._told(events or ([Part("text", "")] if self._logprobs else []))

    def answer(self, completion: Completion) -> Answer:
        calls: list[ToolCall] = []
        for event in self._events:
            if isinstance(event, CallStart):
                calls.append(ToolCall(event.id, event.name, ""))
            elif isinstance(event, CallArguments):
                calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + event.text)
        reason = completion.finish_reason
        finish: Finish = "length" if reason == "length" else "tool_calls" if calls else "stop"
        return Answer(self._text("text"), self._text("thought"), tuple(calls), finish, completion)

    def _text(self, kind: str) -> str:
        parts = (event for event in self._events if isinstance(event, Part))
        return "".join(part.text for part in parts if part.kind == kind)

    def _told(self, events: Sequence[Event]) -> list[Delta]:
        """The first of the deltas has the log-probabilities of all."""
        self._events += events
        deltas = []
        for event in events:
            deltas.append(Delta(event, self._logprobs))
            self._logprobs = ()
        return deltas
