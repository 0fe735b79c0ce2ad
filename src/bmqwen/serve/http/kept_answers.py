"""Answers that outlive their connection: a page that was reloaded reads on, another tab reads along and may stop it."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from bmqwen.errors import BmqwenError, NotFoundError, RequestError, StoppedError

LOG = logging.getLogger("bmqwen.serve")
HEADER = "x-answer-id"
# Without a reader an answer goes on this long: enough for a reload, or a walk through a tunnel.
GRACE_SECONDS = 30.0
# An answer that has ended can be read for this long.
KEPT_SECONDS = 60.0
# How often a reader is told that it is still waiting, and for what.
LOOK_SECONDS = 0.5


class KeptAnswers:
    """Streams by the names that their clients chose, for the owner of the key they were asked with."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], _KeptAnswer] = {}

    def keep(
        self, owner: str, name: str, source: AsyncGenerator[bytes, None], progress: Callable[[], str]
    ) -> AsyncGenerator[bytes, None]:
        """Run a stream of events by itself, and return a reader of it.

        What `progress` says while nothing comes is told as comments. Raises RequestError for a bad name.
        """
        if not re.fullmatch("[0-9a-f]{32}", name):
            raise RequestError(f"the header {HEADER} must be 32 hexadecimal digits")
        key = (owner, name)
        if key in self._answers:
            raise RequestError(f"there is an answer with this {HEADER} already")
        loop = asyncio.get_running_loop()
        answer = self._answers[key] = _KeptAnswer(source, progress)

        def forget_later(_: "asyncio.Task[None]") -> None:
            loop.call_later(KEPT_SECONDS, self._answers.pop, key, None)

        answer.task.add_done_callback(forget_later)
        return answer.read(0)

    def read(self, owner: str, name: str, after: int) -> AsyncGenerator[bytes, None]:
        """Return a reader of the events after the one with number `after`. Raises NotFoundError."""
        return self._find(owner, name).read(max(0, after))

    def stop(self, owner: str, name: str) -> None:
        """End an answer, for all its readers. Raises NotFoundError."""
        self._find(owner, name).task.cancel()

    def close(self) -> None:
        """End all of them."""
        for answer in self._answers.values():
            answer.task.cancel()

    def _find(self, owner: str, name: str) -> "_KeptAnswer":
        if (answer := self._answers.get((owner, name))) is None:
            raise NotFoundError("there is no such answer: it ended more than a minute ago, or never began")
        return answer


class _KeptAnswer:
    def __init__(self, source: AsyncGenerator[bytes, None], progress: Callable[[], str]) -> None:
        self._progress = progress
        self._events: list[bytes] = []
        self._error: BmqwenError | None = None
        self._over = False
        self._news = asyncio.Event()
        self._readers = 0
        self._leaving: asyncio.TimerHandle | None = None
        self.task = asyncio.ensure_future(self._run(source))

    async def _run(self, source: AsyncGenerator[bytes, None]) -> None:
        try:
            async with aclosing(source):
                async for event in source:
                    self._events.append(event)
                    self._tell()
        except asyncio.CancelledError:
            self._error = StoppedError("the answer was stopped")
        except BmqwenError as error:
            self._error = error
        except Exception as error:
            LOG.error("an answer failed: %r", error, exc_info=error)
            self._error = BmqwenError("the server failed; its log says why")
        self._over = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self, after: int) -> AsyncGenerator[bytes, None]:
        """Yield the events, each with its number, as they come. Raises the error that the answer ended with."""
        self._readers += 1
        if self._leaving is not None:
            self._leaving.cancel()
        said = ""
        try:
            while not self._over or after < len(self._events):
                news = self._news
                for event in self._events[after:]:
                    after += 1
                    yield event and b"id: %d\n%b" % (after, event)
                while not self._over and after == len(self._events) and not news.is_set():
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(news.wait(), LOOK_SECONDS)
                    if not news.is_set() and (words := self._progress()) != said:
                        said = words
                        yield f": {words}\n\n".encode()
            if self._error is not None:
                raise self._error
        finally:
            self._readers -= 1
            if not self._readers and not self._over:
                self._leaving = asyncio.get_running_loop().call_later(GRACE_SECONDS, self.task.cancel)
