"""An engine in a process of its own: `python -m bmqwen.serve.pool.engine_process FD PARENT`.

One thread computes, another hears what the server says meanwhile: cancelling must not wait for a token.
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from bmqwen.errors import BmqwenError, DeviceError, InputError
from bmqwen.runtime.base import DeviceRuntime, Runtime
from bmqwen.runtime.child_process import watch_parent
from bmqwen.serve.pool.gathered import Gathered
from bmqwen.serve.pool.wire import (
    Message,
    completion_to_wire,
    decode,
    encode,
    error_to_wire,
    params_from_wire,
    piece_to_wire,
)

# An interrupt that falls between two feeds is lost, so it is repeated until the generation ends.
REPEAT_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class EngineProcess:
    """The engine's side of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: int | None = None
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Load, then generate until the other side is gone. An engine whose device failed ends, to be started again."""
        with self._connection.makefile("rb") as lines:
            order = decode(lines.readline())
            try:
                self._load(order)
            except BmqwenError as error:
                self._send({"op": "error", "error": error_to_wire(error)})
                return
            threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
            with self._engine:
                while (message := self._waiting.get()) is not None and self._generate(message):
                    pass

    def _load(self, order: Message) -> None:
        from bmqwen.engine import load

        self._engine = load(
            order["model"],
            order["engine"],
            threads=order["threads"],
            context_length=order["context_length"],
            device=order["device"],
            saved_bytes=order["saved_bytes"],
            offline=True,
        )
        runtime = self._engine.runtime
        self._send(
            {
                "op": "ready",
                "name": runtime.name,
                "context_length": runtime.context_length,
                "vocab_size": runtime.vocab_size,
                "state": self._state(),
            }
        )

    def _listen(self, lines: Any) -> None:
        """Hear messages; the computing thread ends when there are no more."""
        try:
            for line in lines:
                message = decode(line)
                if message["op"] == "cancel":
                    self._cancel(message["id"])
                else:
                    self._waiting.put(message)
        except (OSError, ValueError):
            pass
        with self._lock:
            current = self._current
        self._waiting.put(None)
        if current is not None:
            self._cancel(current)

    def _cancel(self, job: int) -> None:
        self._cancelled.add(job)
        self._interrupt(job)

    def _interrupt(self, job: int) -> None:
        with self._lock:
            if self._current != job:
                return
            self._engine.runtime.interrupt()
        again = threading.Timer(REPEAT_SECONDS, self._interrupt, (job,))
        again.daemon = True
        again.start()

    def _generate(self, message: Message) -> bool:
        """Answer one request; False if the engine can no longer be used."""
        job = message["id"]
        with self._lock:
            self._current = job
        usable = True
        gathered = Gathered(lambda piece: self._send({"op": "piece", "id": job, **piece_to_wire(piece)}))
        try:
            pieces = self._engine.session.generate(
                message["prompt"],
                params_from_wire(message["params"]),
                cancelled=lambda: job in self._cancelled,
                on_prefill=lambda done, _: self._send({"op": "start", "id": job}) if done == 0 else None,
                owner=message["owner"],
            )
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    last: Message = {"op": "done", **completion_to_wire(end.value)}
                    break
                gathered.add(piece)
        except BmqwenError as error:
            usable = not isinstance(error, DeviceError)
            last = {"op": "error", "error": error_to_wire(error)}
        except (MemoryError, TypeError, KeyError, ValueError) as error:
            reason = "there is not enough memory" if isinstance(error, MemoryError) else f"{error!r}"
            last = {"op": "error", "error": error_to_wire(InputError(f"the engine cannot do that: {reason}"))}
        with self._lock:
            self._current = None
            self._cancelled.discard(job)
        gathered.flush()
        self._send({**last, "id": job, "state": self._state(), "usable": usable})
        return usable

    def _state(self) -> Message:
        """Sizes and counts for the metrics."""
        saved = self._engine.session.saved
        state = None if saved is None else saved.state
        return {
            "memory_bytes": _resident_bytes(),
            "device_bytes": _device_bytes(self._engine.runtime),
            "conversations": 0 if state is None else state.conversations,
            "saved_bytes": 0 if state is None else state.nbytes,
            "saved": 0 if state is None else state.saved,
            "restored": 0 if state is None else state.restored,
        }

    def _send(self, message: Message) -> None:
        self._connection.sendall(encode(message))


def _device_bytes(runtime: Runtime) -> int | None:
    """Memory in use on the runtime's device; None if there is none, or if it does not tell."""
    try:
        return runtime.memory_used if isinstance(runtime, DeviceRuntime) else None
    except BmqwenError:
        return None


def _resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (called after every answer)
        return int(file.read().split()[1]) * PAGE_BYTES


def main(descriptor: int, parent: int) -> None:
    """Serve one connection, then end at once."""
    watch_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        socket.socket(fileno=descriptor) as connection,
        contextlib.suppress(BrokenPipeError, ConnectionError),
    ):
        EngineProcess(connection).run()
    sys.stdout.flush()
    # Threads of a library may spin on.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
