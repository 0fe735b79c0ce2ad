"""Connections of clients that keep a server waiting."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import uvicorn
from prometheus_client import Counter, disable_created_metrics
from starlette.types import Message, Receive, Scope, Send

from bmqwen.errors import DeviceError
from bmqwen.serve.http import connection, middleware, streaming
from bmqwen.serve.http.connection import ClientConnection
from bmqwen.serve.http.middleware import AccessMiddleware, AccessRules

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
    config = uvicorn.Config(app, port=0, http=ClientConnection, lifespan="off", log_config=None)
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


def test_a_stream_that_waits_is_opened_and_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.05)
    sent: list[Message] = []
    pings = asyncio.Event()

    async def answer() -> AsyncGenerator[bytes, None]:
        await pings.wait()
        yield b"data: {}\n\n"
        raise DeviceError("gone")

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            pings.set()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    stream = streaming.EventStream(answer(), streaming.OPENAI)
    scope = {"type": "http", "path": "/v1/chat/completions"}
    asyncio.run(asyncio.wait_for(stream(scope, receive, send), 20))
    assert sent[0]["status"] == 200
    parts = [message["body"] for message in sent[1:]]
    assert parts[0] == parts[1] == streaming.OPENAI.ping
    *_, event, error, end = parts
    assert (event, end) == (b"data: {}\n\n", b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "device_failed"


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_who_does_not_say_what_it_wants_is_given_up(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)

    async def scenario() -> bytes:
        async with serving(Endless()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            rest = await reader.read()
            writer.close()
            return rest

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == b""


def test_connections_beyond_the_most_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 2)

    async def scenario() -> list[bool]:
        async with serving(Endless()) as port:
            pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.2)
            pairs.append(await asyncio.open_connection("127.0.0.1", port))
            reads = [asyncio.create_task(reader.read()) for reader, _ in pairs]
            await asyncio.wait(reads, timeout=1)
            ended = [read.done() and read.result() == b"" for read in reads]
            for _, writer in pairs:
                writer.close()
            return ended

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [False, False, True]


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    sent: list[Message] = []
    parts = [b"{"]
    disable_created_metrics()  # type: ignore[no-untyped-call]
    requests = Counter("requests", "Requests.", ["endpoint", "status"], registry=None)

    async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, send
        while (await receive()).get("more_body"):
            pass

    async def one_byte_then_nothing() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-length", b"9"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        guarded = AccessMiddleware(read_all, AccessRules(), requests, "")
        await guarded(scope, one_byte_then_nothing, send)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "time_limit"
    (counted,) = requests.collect()
    assert [sample.labels for sample in counted.samples] == [{"endpoint": "other", "status": "408"}]


def test_a_visit_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What the page loads and asks by itself is not; what fails is."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        status = 404 if scope["path"].endswith("missing.js") else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def scenario() -> None:
        guarded = AccessMiddleware(answer, AccessRules(), Counter("pages", "x", ["endpoint", "status"]), "")
        visited = ("/", "/page/1/app.js", "/api/info", "/tokenize", "/favicon.ico", "/page/1/missing.js")
        for method, path in [*(("GET", path) for path in visited), ("HEAD", "/")]:
            await guarded({"type": "http", "method": method, "path": path, "headers": []}, receive, send)

    with caplog.at_level(logging.INFO, "bmqwen.serve"):
        asyncio.run(scenario())
    assert [record.getMessage().split(" 0.")[0] for record in caplog.records] == [
        "GET / 200",
        "GET /page/1/missing.js 404",
        "HEAD / 200",
    ]
    assert [message["body"] for message in sent if "body" in message] == [b"body"] * 6 + [b""]
