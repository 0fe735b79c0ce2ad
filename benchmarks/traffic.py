"""Clients of a server: conversations of mixed lengths, some of whom leave before their answer is finished."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

# Characters of a text that a question is about, and how often.
LENGTHS = {40: 5, 300: 3, 1300: 2}
ANSWERS = (4, 8, 16, 32, 64)
MOST_TURNS = 3
LEAVING = 0.2
STREAMED = 0.7
LONGEST_PATIENCE_S = 30.0
INSTRUCTIONS = (
    "",
    "Answer in one sentence.",
    "You are a helpful teacher. Answer with short and simple words.",
)
TASKS = (
    "What is this about?",
    "Translate this into French.",
    "这段话说了什么？",
    "Go on:",
    "Find a mistake in it.",
)
NEXT_TASKS = ("Say that in other words.", "Why?", "用中文再说一遍。", "Give an example.")

Said = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and what came of it.

    Attributes:
        messages: role and text of each message.
        max_tokens: most of the answer.
        status: of HTTP; 0: the connection failed.
        answer: all of its text, if it came to its end.
        finish: why it ended.
        error: what the server or the connection answered instead.
        left: the client left before the end.
    """

    messages: Said
    max_tokens: int
    status: int = 0
    answer: str | None = None
    finish: str = ""
    error: str = ""
    left: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a client sends, and how long it stays: so many seconds, or pieces of the answer."""

    messages: Said
    max_tokens: int
    stream: bool
    patience_s: float | None = None
    patience_pieces: int | None = None

    def body(self, user: str) -> dict[str, Any]:
        """The request."""
        return {
            "messages": [{"role": role, "content": text} for role, text in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": self.stream,
            "user": user,
        }


class Asker:
    """What one client asks: the same for the same seed and number, as long as its answers are the same."""

    def __init__(self, seed: int, number: int, text: str) -> None:
        self._random, self._text = Random(f"{seed} {number}"), text

    def begin(self) -> Question:
        """The first question of a conversation."""
        instruction = self._random.choice(INSTRUCTIONS)
        [length] = self._random.choices(list(LENGTHS), list(LENGTHS.values()))
        start = self._random.randrange(max(1, len(self._text) - length))
        asked = f"{self._random.choice(TASKS)}\n{self._text[start : start + length]}"
        head: Said = (("system", instruction),) if instruction else ()
        return self._question((*head, ("user", asked)))

    def next(self, before: Exchange) -> Question | None:
        """The next question of a conversation; None: it is over."""
        turns = sum(role == "user" for role, _ in before.messages)
        if before.answer is None or turns == MOST_TURNS or self._random.random() < 0.3:
            return None
        added = (("assistant", before.answer), ("user", self._random.choice(NEXT_TASKS)))
        return self._question((*before.messages, *added))

    def _question(self, messages: Said) -> Question:
        stream = self._random.random() < STREAMED
        seconds = pieces = None
        if self._random.random() < LEAVING:
            if stream and self._random.random() < 0.5:
                pieces = self._random.randint(1, 5)
            else:
                seconds = self._random.uniform(0, LONGEST_PATIENCE_S)
        return Question(messages, self._random.choice(ANSWERS), stream, seconds, pieces)


class Traffic:
    """Clients that ask one question after the other, all at once.

    Attributes:
        exchanges: what came of all questions so far.
    """

    def __init__(self, url: str, text: str, *, clients: int, seed: int) -> None:
        """`text` is what questions are about."""
        self._url, self._text, self._clients, self._seed = url, text, clients, seed
        self.exchanges: list[Exchange] = []

    async def run(self, seconds: float) -> None:
        """Ask for so long; who waits for an answer at the end leaves."""
        limits = httpx.Limits(max_connections=2 * self._clients)
        async with httpx.AsyncClient(base_url=self._url, timeout=None, limits=limits) as client:
            tasks = [
                asyncio.create_task(self._talk(client, number, time.monotonic() + seconds))
                for number in range(self._clients)
            ]
            await asyncio.wait(tasks, timeout=seconds)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for problem in ended:
            if isinstance(problem, Exception):
                raise problem

    async def _talk(self, client: httpx.AsyncClient, number: int, end: float) -> None:
        asker = Asker(self._seed, number, self._text)
        while time.monotonic() < end:
            question: Question | None = asker.begin()
            while question is not None:
                exchange = await ask(client, question, f"client {number}")
                self.exchanges.append(exchange)
                question = asker.next(exchange)


async def ask(client: httpx.AsyncClient, question: Question, user: str) -> Exchange:
    """Ask, and stay as long as the question says."""
    try:
        return await asyncio.wait_for(_ask(client, question, user), question.patience_s)
    except asyncio.TimeoutError:
        return Exchange(question.messages, question.max_tokens, left=True)
    except httpx.HTTPError as problem:
        return Exchange(question.messages, question.max_tokens, error=repr(problem))


async def _ask(client: httpx.AsyncClient, question: Question, user: str) -> Exchange:
    async with client.stream("POST", "/v1/chat/completions", json=question.body(user)) as response:
        status = response.status_code
        if status != 200 or not question.stream:
            return _whole(question, status, json.loads(await response.aread()))
        pieces, finish, error = [], "", ""
        async for event in events(response.aiter_lines()):
            if "error" in event:
                error = str(event["error"]["message"])
                break
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    pieces.append(text)
                finish = choice["finish_reason"] or finish
            if len(pieces) == question.patience_pieces:
                return Exchange(question.messages, question.max_tokens, status, left=True)
    if not finish:
        return Exchange(question.messages, question.max_tokens, status, error=error or "the stream was cut")
    return Exchange(question.messages, question.max_tokens, status, "".join(pieces), finish)


def _whole(question: Question, status: int, body: dict[str, Any]) -> Exchange:
    if status != 200:
        return Exchange(question.messages, question.max_tokens, status, error=str(body["error"]["message"]))
    choice = body["choices"][0]
    text, finish = str(choice["message"]["content"]), str(choice["finish_reason"])
    return Exchange(question.messages, question.max_tokens, status, text, finish)


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, but for its end."""
    async for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def failures(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those that ended without an answer although their client stayed."""
    return [exchange for exchange in exchanges if exchange.answer is None and not exchange.left]
