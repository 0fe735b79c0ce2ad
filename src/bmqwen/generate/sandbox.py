"""Where chat templates are rendered: in a process that can be killed (see `sandbox_process`)."""

import atexit
import contextlib
import json
import select
import socket
import threading
from collections.abc import Mapping
from io import BufferedRWPair
from typing import Any

from bmqwen.errors import InputError
from bmqwen.runtime.child_process import ChildProcess

# An honest template takes a millisecond, ten on a slow board.
CPU_SECONDS = 3.0
MEMORY = 256 << 20
# Characters of a prompt; and bytes of a request or answer as a line of JSON, at most 12 for a character.
LONGEST_TEXT = 4_000_000
MOST_BYTES = 16 * LONGEST_TEXT
# For the process to start on a busy machine; then for an answer, if it should be stopped rather than busy.
START_SECONDS = 60.0
ANSWER_SECONDS = 15.0


class Sandbox:
    """One process for all templates of this program, started on first use and again after it was stopped.

    Safe to call from several threads, which take turns.
    """

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        """Start nothing yet. A template may take so many seconds of CPU time."""
        self._cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._stream: BufferedRWPair
        self._ready = False

    def start(self) -> None:
        """Start the process, without waiting for it, so that it is ready by the time it is needed."""
        with self._lock:
            self._start()

    def check(self, source: str) -> None:
        """Raise InputError with the reason, unless `source` is a template."""
        self.render(source, None)

    def close(self) -> None:
        """End the process. It is started again when it is needed."""
        with self._lock:
            self._stop(kill=not self._ready)  # one that is ready ends by itself, as its socket is closed

    def _start(self) -> ChildProcess:
        if self._child is not None and self._ready and _at_end(self._child.socket):
            self._stop()  # killed between two requests, by the system for instance
        if self._child is None:
            self._child = ChildProcess("bmqwen.generate.sandbox_process", what="the templates' process")
            self._child.socket.settimeout(START_SECONDS)
            self._stream = self._child.socket.makefile("rwb")
            self._ready = False
        return self._child

    def render(self, source: str, variables: Mapping[str, Any] | None) -> str:
        """Return the template's text; nothing without variables, which are what JSON can hold.

        Raises InputError with the reason: what the template raised, or the limit that it exceeded.
        """
        request = json.dumps({"source": source, "variables": variables}).encode() + b"\n"
        if len(request) > MOST_BYTES:
            raise InputError(f"the messages are longer than the {LONGEST_TEXT:,} characters that fit")
        with self._lock:
            child = self._start()
            try:
                if not self._ready:
                    self._greet(child)
                line = self._exchange(request)
            except BaseException:  # also Ctrl-C: the next answer would be taken for that of the next request
                self._stop()
                raise
            if not line.endswith(b"\n"):
                self._stop()
                raise InputError(f"it takes more than {self._cpu_seconds:g} s")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return str(answer["text"])

    def _greet(self, child: ChildProcess) -> None:
        """Wait until the process is ready. Raises DeviceError where it cannot run."""
        limits = {"memory": MEMORY, "cpu_seconds": self._cpu_seconds, "longest_text": LONGEST_TEXT}
        self._ready = self._exchange(json.dumps(limits).encode() + b"\n") == b"\n"
        if not self._ready:
            raise child.ended()
        child.socket.settimeout(ANSWER_SECONDS)

    def _exchange(self, request: bytes) -> bytes:
        """The answer, cut short or empty if the process ended or hangs."""
        with contextlib.suppress(OSError):
            self._stream.write(request)
            self._stream.flush()
            return self._stream.readline(MOST_BYTES)
        return b""

    def _stop(self, *, kill: bool = True) -> None:
        child, self._child = self._child, None
        if child is not None:
            if kill:
                child.kill()
            with contextlib.suppress(OSError):
                self._stream.close()
            child.close()


def _at_end(connection: socket.socket) -> bool:
    """Whether a connection that carries nothing now was closed by the other side."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


SANDBOX = Sandbox()
atexit.register(SANDBOX.close)
