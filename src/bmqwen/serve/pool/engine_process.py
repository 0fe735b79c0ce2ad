"""An engine in a process of its own: `python -m bmqwen.serve.pool.engine_process FD PARENT`.

One thread computes all answers together, another hears what the server says meanwhile: cancelling must not wait for a
token.
"""

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmqwen.errors import BmqwenError, DeviceError, FeedInterruptedError
from bmqwen.generate.generation import Generation
from bmqwen.generate.kept_conversations import KeptConversations
from bmqwen.generate.params import Piece
from bmqwen.runtime.base import DeviceRuntime, Runtime
from bmqwen.runtime.child_process import watch_parent
from bmqwen.serve.pool.wire import EngineConfig, EngineFacts, EngineState, Fault, Message, decode, encode

# An interrupt that falls between two steps is lost, so it is repeated until the generation ends.
REPEAT_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Sending costs the engine time that it computes in, on a machine with few cores 5 % of it at 100 tokens a second.
# Nobody reads faster than this.
GATHER_SECONDS = 0.06


class PieceBuffer:
    """Sends the first piece immediately and those that follow within GATHER_SECONDS together.

    A piece waits until the next one comes, or `flush`.
    """

    def __init__(self, send: Callable[[Piece], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._send, self._clock = send, clock
        self._pieces: list[Piece] = []
        self._sent = float("-inf")

    def add(self, piece: Piece) -> None:
        """Take a piece, and send all that wait if it is time, or if it belongs to another part of the answer."""
        if self._pieces and self._pieces[-1].kind != piece.kind:
            self.flush()
        self._pieces.append(piece)
        if self._clock() - self._sent >= GATHER_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send all pieces that wait."""
        if self._pieces:
            text = "".join(piece.text for piece in self._pieces)
            logprobs = tuple(item for piece in self._pieces for item in piece.logprobs)
            last = self._pieces[-1]
            self._pieces.clear()
            self._send(replace(last, text=text, logprobs=logprobs))
            self._sent = self._clock()


class Answer:
    """A generation, and how its text is sent."""

    def __init__(self, job: int, generation: Generation, send: Callable[[Message], None]) -> None:
        self.job, self.generation, self._send = job, generation, send
        self._started, self._read = False, 0
        self._buffer = PieceBuffer(lambda piece: send({"op": "piece", "id": job, "piece": piece}))

    def report(self) -> None:
        """Tell the server what came: that it has begun, how much of its prompt was read, and text."""
        generation = self.generation
        # One that failed before it began (its schema cannot be held) is an error, not a stream that ends in one.
        if (
            not self._started
            and generation.error is None
            and (generation.slot is not None or generation.over)
        ):
            self._started = True
            self._send({"op": "start", "id": self.job})
        if self.generation.read > self._read:
            self._read = self.generation.read
            self._send({"op": "read", "id": self.job, "done": self._read})
        while self.generation.pieces:
            self._buffer.add(self.generation.pieces.popleft())
        if self.generation.over:
            self._buffer.flush()


class EngineProcess:
    """The engine's side of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._cancelled: set[int] = set()
        self._kept: KeptConversations | None = None

    def run(self) -> None:
        """Load, then generate until the other side is gone, or until the engine fails and has to be started again."""
        # Never closed: the listening thread reads it as long as this process lives, and closing would wait for that.
        lines = self._connection.makefile("rb")
        first = decode(lines.readline())
        try:
            self._load(first["config"])
        except Exception as error:
            self._send({"op": "error", "fault": _reported(error, "loading")})
            return
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
        usable = True
        try:
            while usable and self._take():
                usable = self._step()
        finally:
            # A failed device is left to the system, which frees it when this process ends: closing it may hang.
            if usable:
                self._keep()
                self._engine.close()

    def _load(self, config: EngineConfig) -> None:
        from bmqwen.engine import load

        self._engine = load(
            config.model,
            config.engine,
            threads=config.threads,
            context_length=config.context_length,
            device=config.devices,
            saved_bytes=config.saved_bytes,
            draft=config.draft,
            sequences=config.sequences,
            reproducible=config.reproducible,
            offline=True,
            task=config.task,
        )
        if config.kept:
            self._kept = KeptConversations(Path(config.kept), self._engine.identity)
            self._kept.read(self._engine.session.saved)
        runtime = self._engine.runtime
        facts = EngineFacts(runtime.name, runtime.context_length, runtime.vocab_size, runtime.sequences)
        self._send({"op": "ready", "facts": facts, "state": self._state()})

    def _keep(self) -> None:
        """Write the conversations down for the next engine, if there is a folder for them."""
        if self._kept is None:
            return
        try:
            self._engine.session.batcher.put_away()
            self._kept.write(self._engine.session.saved)
        except BmqwenError as error:
            print(f"conversations could not be kept: {error}", flush=True)

    def _listen(self, lines: Any) -> None:
        """Receive messages; the computing thread ends when there are no more."""
        try:
            for line in lines:
                message = decode(line)
                if message["op"] == "cancel":
                    self._cancel(message["id"])
                else:
                    self._waiting.put(message)
        except (OSError, ValueError, KeyError, BmqwenError):
            traceback.print_exc()
        finally:
            self._waiting.put(None)
            with self._lock:
                running = list(self._answers)
            for job in running:
                self._cancel(job)

    def _cancel(self, job: int) -> None:
        with self._lock:
            self._cancelled.add(job)
            if job in self._answers:
                self._answers[job].generation.cancelled = True
        self._interrupt(job)

    def _interrupt(self, job: int) -> None:
        """End the step under way, unless others are computed in it: theirs ends soon by itself."""
        with self._lock:
            if job not in self._answers:
                return
            if all(answer.generation.cancelled for answer in self._answers.values()):
                self._engine.runtime.interrupt()
        again = threading.Timer(REPEAT_SECONDS, self._interrupt, (job,))
        again.daemon = True
        again.start()

    def _take(self) -> bool:
        """Begin all answers that are asked for, waiting for one if none is under way; False if there is no server."""
        while not self._answers or not self._waiting.empty():
            message = self._waiting.get()
            if message is None:
                return False
            if not self._begin(message):
                return False
        return True

    def _begin(self, message: Message) -> bool:
        """Begin an answer; False if the engine can no longer be used."""
        job = message["id"]
        try:
            generation = self._engine.session.batcher.add(
                message["prompt"], message["params"], message["owner"]
            )
        except Exception as error:
            return self._end(job, error)
        answer = Answer(job, generation, self._send)
        with self._lock:
            self._answers[job] = answer
            generation.cancelled = job in self._cancelled
        answer.report()
        return True

    def _step(self) -> bool:
        """Compute a step and tell what came of it; False if the engine can no longer be used."""
        try:
            self._engine.session.batcher.step()
        except FeedInterruptedError:
            # Who is cancelled ends before the next step.
            return True
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = None
        usable = failure is None
        # Complete ones first: after a failure the server hears no more, and what came to its end in that step is whole.
        for job, answer in sorted(
            self._answers.items(), key=lambda each: each[1].generation.completion is None
        ):
            answer.report()
            if answer.generation.over:
                usable &= self._end(job, answer.generation.error)
            elif failure is not None:
                self._end(job, failure)
        return usable

    def _end(self, job: int, error: Exception | None) -> bool:
        """Send the last message of an answer; False if its error leaves the engine unusable."""
        with self._lock:
            answer = self._answers.pop(job, None)
            self._cancelled.discard(job)
        usable = error is None or (isinstance(error, BmqwenError) and not isinstance(error, DeviceError))
        last: Message = {"op": "done", "id": job, "usable": usable}
        if error is not None:
            last |= {"op": "error", "fault": _reported(error, "answering")}
        elif answer is not None and answer.generation.completion is not None:
            last["completion"] = replace(answer.generation.completion, text="", thoughts="", logprobs=())
        if usable:
            last["state"] = self._state()
        self._send(last)
        return usable

    def _state(self) -> EngineState:
        kept = self._engine.session.saved.state
        return EngineState(
            _resident_bytes(),
            _device_bytes(self._engine.runtime),
            conversations=kept.conversations,
            saved_bytes=kept.nbytes,
            saved=kept.saved,
            restored=kept.restored,
        )

    def _send(self, message: Message) -> None:
        self._connection.sendall(encode(message))


def _reported(error: Exception, doing: str) -> Fault:
    """What the server is told; an error that nobody foresaw is printed with its trace."""
    if isinstance(error, BmqwenError):
        return Fault.of(error)
    traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return Fault("DeviceError", f"there is not enough memory for {doing}")
    return Fault("DeviceError", f"{doing} failed: {type(error).__name__}: {error}")


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
    """Serve one connection, then end the process, whatever its threads do."""
    watch_parent(parent)
    # What is printed here the server logs if this engine fails.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = 1
    try:
        EngineProcess(socket.socket(fileno=descriptor)).run()
        status = 0
    except ConnectionError:
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of a library may spin on.
        os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
