"""An answer on its way to the client, who may leave: as one document, or as a stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bmqwen.errors import BmqwenError
from bmqwen.serve.http.errors import error_body, error_response, json_bytes

T = TypeVar("T")

# A stream whose answer has not begun by then is opened anyhow, so that nothing between gives up on it.
OPEN_SECONDS = 10.0
PING_SECONDS = 15.0
STREAM_HEADERS = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream's events are sent: their media type, what says that all goes well, and how the end is told."""

    media_type: bytes
    ping: bytes
    done: bytes
    error: Callable[[Any], bytes]  # from the error's body


def event_of(body: Any, name: str = "") -> bytes:
    """Encode JSON as an event."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + json_bytes(body) + b"\n\n"


OPENAI = Framing(b"text/event-stream; charset=utf-8", b": waiting\n\n", b"data: [DONE]\n\n", event_of)


async def unless_left(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return the result of the work. If the client leaves before, cancel it and raise ClientDisconnect."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


class EventStream(Response):
    """A stream of events. An error before the first one becomes an answer of its own, later ones become events.

    The source yields finished events, and b"" once the answer is certain to begin.
    """

    def __init__(self, source: AsyncGenerator[bytes, None], framing: Framing) -> None:
        self._source, self._framing = source, framing
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the source ends or the client leaves."""
        await unless_left(self._send_all(scope, receive, send), receive)

    def _stream_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", self._framing.media_type), *STREAM_HEADERS]

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = False
        waiting = asyncio.ensure_future(anext(self._source))
        try:
            while True:
                done, _ = await asyncio.wait([waiting], timeout=PING_SECONDS if opened else OPEN_SECONDS)
                event = waiting.result() if done else self._framing.ping
                if not opened:
                    opened = True
                    await send(
                        {"type": "http.response.start", "status": 200, "headers": self._stream_headers()}
                    )
                if event:
                    await send(_chunk(event))
                if done:
                    waiting = asyncio.ensure_future(anext(self._source))
        except StopAsyncIteration:
            if self._framing.done:
                await send(_chunk(self._framing.done))
        except BmqwenError as error:
            if not opened:
                await error_response(error, scope["path"])(scope, receive, send)
                return
            scope["note"] = f"failed: {error.code}"
            await send(_chunk(self._framing.error(error_body(error, scope["path"]))))
        finally:
            # The source can be closed only once nothing waits in it any more.
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
            await self._source.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _chunk(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
