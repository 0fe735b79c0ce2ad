"""One request to an engine, and what comes back."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal

from bmqwen.errors import BmqwenError
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.prefix_store import Tokens, as_tokens

State = Literal["new", "queued", "running", "over"]
_numbers = itertools.count(1)


class Started:
    """The engine took the request up: it begins to read."""


Event = Started | Piece | Completion | BmqwenError


@dataclass(eq=False, slots=True)
class Job:
    """A prompt on its way through the queue and an engine.

    Attributes:
        prompt: token ids.
        owner: whose caches it may use.
        client: whose turn it is when many wait.
        clock: seconds, for `queue_s`.
        started: when an engine got it.
        said: whether any text came.
        expired: whether its time was up.
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
    said: bool = False
    expired: bool = False
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.created = self.clock()
        self.tokens = as_tokens(self.prompt)

    @property
    def queue_s(self) -> float:
        """Seconds in the queue."""
        return (self.clock() if self.started is None else self.started) - self.created

    def tell(self, event: Event) -> None:
        """Pass on what happened; after the end nothing does."""
        if self.state == "over":
            return
        if isinstance(event, Piece):
            self.said = True
        elif not isinstance(event, Started):
            self.state = "over"
        self._events.put_nowait(event)

    async def events(self) -> AsyncGenerator[Started | Piece | Completion, None]:
        """What happens, the Completion last. Raises the error that ends it, if one does."""
        while True:
            event = await self._events.get()
            if isinstance(event, BmqwenError):
                raise event
            yield event
            if isinstance(event, Completion):
                return
