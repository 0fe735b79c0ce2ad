"""An answer on its way to the client: as one JSON document, or as a stream of events."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bmqwen.errors import BmqwenError
from bmqwen.serve.http.errors import error_body, error_response, json_response

# A stream whose answer has not begun by then is opened anyhow, so that nothing between gives up on it.
OPEN_SECONDS = 10.0
PING_SECONDS = 15.0
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"
PING = b": waiting\n\n"


class Whole(Response):
    """One JSON document, computed when the response is sent; the work is cancelled when the client leaves."""

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._work = work
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the document, or the error that the work raised."""
        work = asyncio.ensure_future(self._work())
        if not await finished(work, receive):
            return
        try:
            response = json_response(work.result())
        except BmqwenError as error:
            response = error_response(error)
        await response(scope, receive, send)


class EventStream(Response):
    """Server-sent events. An error before the first one becomes an answer of its own, later ones become events.

    The source yields finished events, and b"" once the answer is certain to begin.
    """

    def __init__(self, source: Callable[[], AsyncIterator[bytes]]) -> None:
        self._source = source
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the source ends or the client leaves."""
        work = asyncio.ensure_future(self._send_all(scope, receive, send))
        if await finished(work, receive):
            work.result()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        source = self._source()
        opened = False
        try:
            waiting: asyncio.Future[bytes] = asyncio.ensure_future(_next(source))
            try:
                while True:
                    done, _ = await asyncio.wait([waiting], timeout=PING_SECONDS if opened else OPEN_SECONDS)
                    if not opened:
                        if done:
                            waiting.result()
                        opened = True
                        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
                    if done:
                        break
                    await send(_chunk(PING))
                event = waiting.result()
            finally:
                # The source can be closed only once nothing waits in it any more.
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait([waiting])
            while True:
                if event:
                    await send(_chunk(event))
                    # Neither sending nor the next event has to wait: let others run, who may know that the client left.
                    await asyncio.sleep(0)
                event = await _next(source)
        except StopAsyncIteration:
            await send(_chunk(DONE))
        except BmqwenError as error:
            if not opened:
                await error_response(error)(scope, receive, send)
                return
            await send(_chunk(event_of(error_body(error))))
        finally:
            await source.aclose()  # type: ignore[attr-defined]
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def finished(work: "asyncio.Future[Any]", receive: Receive) -> bool:
    """Wait for the work; False if the client left before, by which the work was cancelled."""
    left = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        left.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait([work])


def event_of(body: Any) -> bytes:
    """JSON as an event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _next(source: AsyncIterator[bytes]) -> bytes:
    return await source.__anext__()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
