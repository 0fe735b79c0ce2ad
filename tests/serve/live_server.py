"""`bmqwen serve` as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

Answer = dict[str, Any]
KEY = "a-key-for-tests"


class LiveServer:
    """A running server: its address, its processes, what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.url = ""
        self.client = httpx.Client(timeout=60)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def engines(self) -> list[int]:
        """Process ids of the engines."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        children = [pid for task in tasks for pid in (task / "children").read_text().split()]
        return sorted(
            int(pid) for pid in children if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def wait(self, seconds: float = 60) -> None:
        """Until it can answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log}")
            found = re.search(r"page (http://\S+)", self.log)
            if found:
                self.url = found[1]
                self.client.base_url = httpx.URL(self.url)
                if self.client.get("/health").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server is not ready: {self.log}")

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

    def metric(self, name: str) -> float:
        """The sum over a metric's labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{| )", line))

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """End it; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def live_server(model: Path, *options: str, cache: Path, **variables: str) -> Iterator[LiveServer]:
    """A server that is ready, on a port of its own; it is killed at the end if it still runs."""
    environment = os.environ | {"BMQWEN_CACHE": str(cache), "NO_COLOR": "1"} | variables
    command = [sys.executable, "-m", "bmqwen", "serve", str(model), "--port", "0", "--threads", "1", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file, env=environment)
        server = LiveServer(process, log)
        try:
            server.wait()
            yield server
        finally:
            server.client.close()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
