"""What clients get of a request whose front is lost, or that Ray refuses: errors in the shape of their API."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bmqwen.cluster.carried_body import CarryBody
from bmqwen.cluster.lost_answers import PLACE, LostAnswers, middlewares
from bmqwen.serve.http.anthropic.api import MessageWriter
from bmqwen.serve.http.ollama.api import OllamaWriter

EVENTS = b"text/event-stream; charset=utf-8"


def answer(path: str, *messages: Message) -> httpx.Response:
    """What a client gets of the messages that Ray's proxy has for it."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        for message in messages:
            await send(message)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(LostAnswers(proxy))
        async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as client:
            return await client.post(path)

    return asyncio.run(ask())


def start(status: int, kind: bytes) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}


def body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_an_answer_that_never_began(path: str) -> None:
    response = answer(path)
    assert response.status_code == 503
    error = response.json()["error"]
    sentence = error if path == "/api/chat" else error["message"]
    assert sentence == "the process that accepted this request stopped and is being started again; try again"
    if path == "/v1/chat/completions":
        assert error["code"] == "engine_lost"


@pytest.mark.parametrize(
    ("path", "kind", "last"),
    [
        ("/v1/chat/completions", EVENTS, 'data: {"error":{"message":"the process that accepted'),
        ("/v1/messages", MessageWriter.framing.media_type, 'event: error\ndata: {"type":"error"'),
        ("/v1/responses", EVENTS, 'event: error\ndata: {"type":"error","sequence_number":0'),
        ("/api/chat", OllamaWriter.framing.media_type, '{"error":"the process that accepted'),
    ],
)
def test_a_stream_that_was_cut(path: str, kind: bytes, last: str) -> None:
    response = answer(path, start(200, kind), body(b"first\n\n", more=True))
    assert response.status_code == 200
    assert response.text.startswith(f"first\n\n{last}")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "engine_lost"),
        (503, "not_ready"),
        (404, "not_ready"),
        (408, "not_ready"),
        (429, "queue_full"),
    ],
)
def test_refused_by_ray(status: int, code: str) -> None:
    said = (
        start(status, b"text/plain"),
        body(b"Request dropped due to backpressure (num_queued_requests", more=False),
    )
    response = answer("/v1/chat/completions", *said)
    assert response.json()["error"]["code"] == code
    assert "backpressure" not in response.text
    assert ("retry-after" in response.headers) == (code == "queue_full")


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("/v1/models", (start(200, b"application/json"), body(b"{}", more=False))),
        ("/v1/models", (start(503, b"application/json"), body(b'{"error": 1}', more=False))),
        ("/v1/model", (start(404, b"application/json"), body(b'{"error": 1}', more=False))),
        ("/metrics", (start(200, b"text/plain"), body(b"a 1", more=False))),
        ("/-/healthz", (start(503, b"text/plain"), body(b"draining", more=False))),
        ("/x", (start(200, EVENTS), body(b"a", more=True), body(b"b", more=True), body(b"", more=False))),
    ],
)
def test_whole_answers_pass(path: str, messages: tuple[Any, ...]) -> None:
    response = answer(path, *messages)
    assert response.status_code == messages[0]["status"]
    assert response.content == b"".join(message["body"] for message in messages[1:])


def test_ray_finds_it() -> None:
    module, _, name = PLACE.rpartition(".")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
    classes: list[object] = [middleware.cls for middleware in middlewares()]
    assert classes == [LostAnswers, CarryBody]
