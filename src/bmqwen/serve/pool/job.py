"""One request to an engine, and what comes back."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from bmqwen.errors import BmqwenError
from bmqwen.generate.conversation_cache import Tokens, as_tokens
from bmqwen.generate.params import Completion, Piece, SamplingParams

State = Literal["new", "queued", "running", "over"]
_numbers = itertools.count(1)


class Started:
    """The engine took the request up: it begins to read."""


@dataclass(frozen=True, slots=True)
class Read:
    """So many tokens of the prompt are read."""

    done: int


Event = Started | Read | Piece | Completion | BmqwenError


@dataclass(eq=False, slots=True)
class Job:
    """A prompt on its way through the queue and an engine.

    Attributes:
        prompt: token ids.
        owner: whose caches it may use.
        client: whose turn it is when many wait.
        clock: seconds, for `queue_s`.
        started: when an engine got it.
        begun: whether the engine began to read it.
        returned: whether it was put back into the queue, for its engine ended before.
        pieces: that came.
        read: tokens of the prompt that the engine has read; 0 before it says so.
        expired: the error for a job whose time was up before any text came; None while there is time.
    """

    prompt: list[int]
    params: SamplingParams
    owner: str = ""
    client: tuple[str, str] = ("", "")
    clock: Callable[[], float] = time.monotonic
    number: int = field(default_factory=lambda: next(_numbers))
    state: State = "new"
    created: float = field(init=False)
    tokens: Tokens = field(init=False)
    started: float | None = None
    begun: bool = False
    returned: bool = False
    pieces: list[Piece] = field(default_factory=list)
    read: int = 0
    expired: BmqwenError | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.created = self.clock()
        self.tokens = as_tokens(self.prompt)

    @property
    def queue_s(self) -> float:
        """Seconds in the queue."""
        return (self.clock() if self.started is None else self.started) - self.created

    @property
    def running_s(self) -> float:
        """Seconds since an engine got it."""
        return self.clock() - (self.created if self.started is None else self.started)

    def publish(self, event: Event) -> None:
        """Pass on what happened, a Completion with the text of its pieces; after the end nothing is.

        An answer that was cut because its time was up is as one that reached its length, or an error if it is empty.
        """
        if self.state == "over":
            return
        if isinstance(event, Started):
            self.begun = True
        elif isinstance(event, Read):
            self.read = event.done
        elif isinstance(event, Piece):
            self.pieces.append(event)
        else:
            self.state = "over"
        if isinstance(event, Completion):
            text, thoughts = (
                "".join(piece.text for piece in self.pieces if piece.kind == kind)
                for kind in ("text", "thought")
            )
            logprobs = tuple(item for piece in self.pieces for item in piece.logprobs)
            event = replace(event, text=text, thoughts=thoughts, logprobs=logprobs)
            if event.finish_reason == "cancelled" and self.expired is not None:
                event = replace(event, finish_reason="length") if self.pieces else self.expired
        self._events.put_nowait(event)

    async def next_events(self) -> list[Event]:
        """Wait until something has happened, and return all that has.

        The last event of all is a Completion or an error.
        """
        events = [await self._events.get()]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    async def events(self) -> AsyncGenerator[Started | Piece | Completion, None]:
        """Yield what is to be answered, the Completion last. Raises the error that ends it, if one does."""
        while True:
            event = await self._events.get()
            if isinstance(event, BmqwenError):
                raise event
            if not isinstance(event, Read):
                yield event
            if isinstance(event, Completion):
                return
