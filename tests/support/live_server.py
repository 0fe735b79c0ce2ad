"""A running server, and what tests ask of it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from served_model import ServedModel

Answer = dict[str, Any]
KEY = "a-key-for-tests"
# A later option takes the place of an earlier one.
ONE = ("--threads", "1", "--sequences", "1")
# With a model that talks without end: drafts would have it say 50,000 tokens in seconds, for it repeats itself.
ENDLESS = ("--max-tokens", "50000", "--draft", "off")


class LiveServer(ServedModel):
    """A server with a client that talks to it."""

    def __enter__(self) -> "LiveServer":
        super().__enter__()
        return self

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def chat(self, text: str, **fields: Any) -> Answer:
        """The body of an answer."""
        response = self.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields}
        )
        assert response.status_code == 200, response.text
        body: Answer = response.json()
        return body

    def stream(self, text: str, **fields: Any) -> Iterator[Answer]:
        """The events of an answer. Closing the iterator closes the connection."""
        body = {"messages": [{"role": "user", "content": text}], "stream": True, **fields}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))


def live_server(model: Path, *options: str, cache: Path) -> LiveServer:
    """A server of one thread, one answer at a time, with a cache of its own, to be entered."""
    return LiveServer(model, [*ONE, *options], {"BMQWEN_CACHE": str(cache)})


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def in_background(server: LiveServer, body: Any, answers: list[httpx.Response]) -> threading.Thread:
    """Ask in a thread of its own, with a connection of its own; the answer is appended."""

    def ask() -> None:
        answers.append(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def error_of(response: httpx.Response) -> dict[str, Any]:
    """An error, which must have OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


def content(chunks: list[dict[str, Any]]) -> str:
    return "".join(
        chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk.get("choices")
    )
