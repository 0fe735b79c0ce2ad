"""One client's connection."""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol

# A client gets that long for the head of a request.
HEAD_SECONDS = 20.0
# And that long to take some of an answer that is ready.
TAKE_SECONDS = 60.0
MOST_CONNECTIONS = 1000


class ClientConnection(H11Protocol):
    """Closes connections that do not say what they want or do not take their answer, and those beyond a limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request's head."""
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._wait_for("head", HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Wait on while the head is not complete."""
        had = self.cycle
        super().data_received(data)
        if self.cycle is not had:
            self._stop_waiting_for("head")
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for("head", HEAD_SECONDS, self._give_up)

    def pause_writing(self) -> None:
        """Wait for a client that does not read as fast as it is written to, but not for ever."""
        super().pause_writing()
        self._wait_for("reader", TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting for a client that has read."""
        self._stop_waiting_for("reader")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting_for("head")
        self._stop_waiting_for("reader")
        super().connection_lost(exc)

    def _wait_for(self, what: str, seconds: float, give_up: Callable[[], None]) -> None:
        if what not in self._timers:
            self._timers[what] = self.loop.call_later(seconds, give_up)

    def _stop_waiting_for(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()

    def _give_up(self) -> None:
        del self._timers["head"]
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
