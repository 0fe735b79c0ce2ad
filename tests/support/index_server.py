"""A package index on 127.0.0.1 that can cut connections, ask for a password, and know no HEAD."""

import base64
import os
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler

import pytest

from support.pull_server import HubServer


def use_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure pip for one index, and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)


class IndexServer(HubServer):
    """Serves wheels by their names, as the simple index of Python packages does.

    Attributes:
        url: of the index, without the password.
        password: what "user" has to send, for pages and files.
        heads: False to refuse HEAD, as some mirrors do.
        pages: how many pages of projects were asked for.
    """

    def __init__(self, files: Mapping[str, bytes], *, password: str = "") -> None:
        super().__init__("", files)
        self.url = f"{self.endpoint}/simple"
        self.password, self.heads, self.pages = password, True, 0

    def __enter__(self) -> "IndexServer":
        super().__enter__()
        return self

    @property
    def login(self) -> str:
        """The index's address with the password in it."""
        return self.url.replace("://", f"://user:{self.password}@")

    def head(self, request: BaseHTTPRequestHandler) -> None:
        data = self.files.get(request.path.rpartition("/")[2])
        allowed = self.heads and self._may(request) and data is not None
        request.send_response(200 if allowed else 403)
        request.send_header("Content-Length", str(len(data or b"")))
        request.end_headers()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if not self._may(request):
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="wheels"')
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif "/files/" in request.path:
            self._file(request, request.path.rpartition("/")[2])
        else:
            self.pages += 1
            self._page(request, request.path.strip("/").rpartition("/")[2])

    def _may(self, request: BaseHTTPRequestHandler) -> bool:
        login = base64.b64encode(f"user:{self.password}".encode()).decode()
        return not self.password or request.headers.get("Authorization") == f"Basic {login}"

    def _page(self, request: BaseHTTPRequestHandler, project: str) -> None:
        names = [name for name in self.files if re.sub("[-_.]+", "-", name).startswith(f"{project}-")]
        links = "".join(f'<a href="../../files/{name}">{name}</a>' for name in names)
        body = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        request.send_response(200 if names else 404)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
