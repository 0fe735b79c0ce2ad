"""`bmqwen serve` as a process of its own, for benchmarks and tests."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

START_SECONDS = 180.0
STOP_SECONDS = 40.0


class ServedModel:
    """A server on a free port: ready when the block is entered, gone when it is left.

    Attributes:
        url: its address.
        program: the module that is run.
        client: a client for it.
    """

    program = "bmqwen"

    def __init__(
        self,
        model: str | Path | None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`model` None: the demo model; `environment` adds variables."""
        models = [] if model is None else [str(model)]
        self._command = [sys.executable, "-m", self.program, "serve", *models, "--port", "0", *options]
        self._environment = os.environ | {"NO_COLOR": "1"} | dict(environment or {})
        self.url = ""

    def __enter__(self) -> "ServedModel":
        # A file, not a pipe: nobody reads what the server says of each request.
        self._output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stderr=self._output, env=self._environment
        )
        self.client = httpx.Client(timeout=60)
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()

    @property
    def log(self) -> str:
        """All that it printed so far."""
        size = self._output.seek(0, os.SEEK_END)
        return os.pread(self._output.fileno(), size, 0).decode("utf-8", "replace")

    @property
    def engines(self) -> list[int]:
        """Process ids of the engines."""
        return [
            pid for pid in self._children() if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    @property
    def zombies(self) -> list[int]:
        """Process ids of children that ended and that nobody waited for."""
        return [
            pid
            for pid in self._children()
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] == "Z"
        ]

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())

    def metric(self, name: str) -> float:
        """The sum over a metric's labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{| )", line))

    def resident_bytes(self) -> tuple[int, int]:
        """Memory of the server, and of all engines."""
        return _resident(self.process.pid), sum(map(_resident, self.engines))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"page (http://\S+)", self.log)
            if found:
                self.url = found[1]
                self.client.base_url = httpx.URL(self.url)
                if self.client.get("/health").status_code == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self.log}")


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
