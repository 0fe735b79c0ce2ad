"""Bodies on their way to the front: with the request where that can be, else Ray's way, and the same in both."""

import asyncio
import pickle

import pytest
from starlette.types import Message, Receive, Scope, Send

from bmqwen.cluster.carried_body import CarriedBody, CarryBody

LARGE = b"x" * (3 << 20)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def sent(*messages: Message, proxy_carries: bool = True) -> tuple[bytes, int, str]:
    """What the front gets: a body, how often Ray was asked for it, and the message after it."""
    asked = 0

    async def run() -> tuple[bytes, int, str]:
        waiting = [*messages, {"type": "http.disconnect"}]
        found: list[tuple[bytes, int, str]] = []

        async def client() -> Message:
            return waiting.pop(0)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            del scope, send
            body, more = b"", True
            while more and (message := await receive())["type"] == "http.request":
                body += message["body"]
                more = message["more_body"]
            before = asked
            found.append((body, before, (await receive())["type"] if not more else message["type"]))

        async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
            async def ray() -> Message:
                nonlocal asked
                asked += 1
                return await receive()

            await CarriedBody(front)(pickle.loads(pickle.dumps(scope)), ray, send)

        async def send(message: Message) -> None:
            raise AssertionError(message)

        app = CarryBody(proxy) if proxy_carries else proxy
        await app({"type": "http", "path": "/", "headers": []}, client, send)
        return found[0]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "messages", [[part(b"{}")], [part(b"{", more=True), part(b"}")], [part(b"{}", more=True), part(b"")]]
)
def test_a_body_comes_with_its_request(messages: list[Message]) -> None:
    """Ray is not asked, and what it brings of the same later is not taken for more."""
    assert sent(*messages) == (b"{}", 0, "http.disconnect")


def test_a_large_body_goes_rays_way() -> None:
    assert sent(part(LARGE, more=True), part(b"end")) == (LARGE + b"end", 2, "http.disconnect")


def test_a_proxy_that_does_not_carry() -> None:
    assert sent(part(b"{}"), proxy_carries=False) == (b"{}", 1, "http.disconnect")


def test_a_client_that_leaves_in_its_body() -> None:
    assert sent(part(b"{", more=True))[2] == "http.disconnect"
