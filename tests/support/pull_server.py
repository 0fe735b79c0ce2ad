"""A small server that answers like the hubs, and can be told to misbehave."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".gguf", ".bin", ".bmodel", ".whl")


class HubServer:
    """Serves one repository as Hugging Face and as ModelScope do, on 127.0.0.1.

    Attributes:
        repo: its id; any other one is answered with 404.
        files: what it holds.
        claimed: sizes and contents by name, for the listing, where it shall lie.
        cut_after: bytes of an answer after which the connection is closed, once for each entry.
        ranges: False to ignore the header Range.
        silent_at: position in a file beyond which nothing comes.
        pause: seconds between pieces of 10,000 bytes.
        status: answer everything with this status.
        asked: how many requests there were.
        commit: which state Hugging Face has, whatever revision is asked for.
        log: (file, first byte) of every download.
    """

    def __init__(self, repo: str, files: Mapping[str, bytes]) -> None:
        self.repo, self.files = repo, dict(files)
        self.claimed: dict[str, tuple[int, bytes]] = {}
        self.cut_after: list[int] = []
        self.ranges = True
        self.silent_at = 1 << 40
        self.pause = 0.0
        self.status = 200
        self.revisions: list[str] = []
        self.asked = 0
        self.commit = COMMIT
        self.log: list[tuple[str, int]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.asked += 1
                hub.head(self)

            def do_GET(self) -> None:
                hub.asked += 1
                hub.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that were interrupted

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def starts(self, name: str) -> list[int]:
        """First bytes of the downloads of a file, in order."""
        return [start for file, start in self.log if file == name]

    def head(self, request: BaseHTTPRequestHandler) -> None:
        name = self._resolved(request.path)
        known = name if name in self.files else None
        request.send_response(self.status)
        if known:
            size = self._entries()[known][0]
            request.send_header("ETag", f'"{self._etag(known)}"')
            request.send_header("X-Repo-Commit", self.commit)
        request.send_header("Content-Length", str(size if known else 0))
        request.end_headers()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self.status != 200:
            return self._json(request, {"error": "made to fail"}, self.status)
        if url.path == f"/api/models/{self.repo}":
            return self._json(request, self._huggingface_listing())
        if url.path.startswith(f"/api/models/{self.repo}/revision/"):
            self.revisions.append(url.path.rsplit("/", 1)[1])
            return self._json(request, self._huggingface_listing())
        if url.path == f"/api/models/{self.repo}/tree/{self.commit}":
            return self._json(request, self._huggingface_tree())
        if name := self._resolved(url.path):
            return self._file(request, name)
        if url.path == f"/api/v1/models/{self.repo}/repo/files":
            return self._json(request, self._modelscope_listing())
        if url.path == f"/api/v1/models/{self.repo}/repo" and "FilePath" in query:
            return self._file(request, query["FilePath"])
        return self._json(request, {"error": "Repository not found"}, 404, "RepoNotFound")

    def _resolved(self, path: str) -> str:
        """The file that an address of Hugging Face's means: /REPO/resolve/REVISION/FILE; empty for another address."""
        _, found, rest = path.partition(f"/{self.repo}/resolve/")
        return rest.partition("/")[2] if found else ""

    def _entries(self) -> dict[str, tuple[int, bytes]]:
        return {name: self.claimed.get(name, (len(data), data)) for name, data in self.files.items()}

    def _etag(self, name: str) -> str:
        size, data = self._entries()[name]
        if name.endswith(LARGE):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % size + data).hexdigest()

    def _huggingface_listing(self) -> object:
        siblings = []
        for name, (size, data) in self._entries().items():
            sibling: dict[str, object] = {"rfilename": name, "size": size}
            sibling["blobId"] = hashlib.sha1(b"blob %d\0" % size + data).hexdigest()
            if name.endswith(LARGE):
                sibling["lfs"] = {"sha256": self._etag(name), "size": size, "pointerSize": 134}
            siblings.append(sibling)
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "siblings": siblings, "tags": []}

    def _huggingface_tree(self) -> object:
        return [
            {"type": "file", "path": name, "size": size, "oid": self._etag(name)}
            for name, (size, _) in self._entries().items()
        ]

    def _modelscope_listing(self) -> object:
        files = [
            {
                "Path": name,
                "Name": name,
                "Size": size,
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Type": "blob",
            }
            for name, (size, data) in self._entries().items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": files}}

    def _json(
        self, request: BaseHTTPRequestHandler, value: object, status: int = 200, error: str = ""
    ) -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        if error:
            request.send_header("X-Error-Code", error)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data = self.files[name]
        wanted = request.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        self.log.append((name, start))
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        end = len(data)
        if self.cut_after and name.endswith(LARGE):
            end = min(end, start + self.cut_after.pop(0))
        for at in range(start, end, 10_000):
            if at >= self.silent_at:
                time.sleep(60)
            request.wfile.write(data[at : min(at + 10_000, end)])
            request.wfile.flush()
            time.sleep(self.pause)
        if end < len(data):
            request.close_connection = True
