"""Connections of clients that keep a server waiting."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from bmqwen.serve import connection
from bmqwen.serve.connection import Connection

CHUNK = b"x" * 65536


class Endless:
    """An application whose answers never end, until their client is gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        left = asyncio.create_task(self._wait(receive))
        while not left.done():
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            await asyncio.sleep(0)
        self.gone.set()

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@contextlib.asynccontextmanager
async def serving(app: Endless) -> AsyncIterator[int]:
    """The port of a server."""
    config = uvicorn.Config(app, port=0, http=Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


@pytest.mark.parametrize("reads", [False, True])
def test_who_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr(connection, "TAKE_SECONDS", 0.3)

    async def scenario() -> bool:
        app = Endless()
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if reads:
                end = asyncio.get_running_loop().time() + 1
                while asyncio.get_running_loop().time() < end:
                    await reader.read(1 << 20)
                kept = not app.gone.is_set()
                writer.close()
                await app.gone.wait()
                return kept
            await app.gone.wait()
            writer.close()
            return True

    assert asyncio.run(asyncio.wait_for(scenario(), 20))
