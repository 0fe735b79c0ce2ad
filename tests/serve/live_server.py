"""A running server, and what tests ask of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from served_model import ServedModel

Answer = dict[str, Any]
KEY = "a-key-for-tests"


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
    """A server of one thread with a cache of its own, to be entered."""
    return LiveServer(model, ["--threads", "1", *options], {"BMQWEN_CACHE": str(cache)})
