"""The server's side of one engine's process: starts it, talks to it, starts it again when it ends or hangs."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from bmqwen.errors import BmqwenError, DeviceError, EngineHungError, EngineLostError
from bmqwen.generate.prefix_store import PrefixStore
from bmqwen.runtime.child_process import ChildProcess
from bmqwen.serve.pool.job import Job, Started
from bmqwen.serve.pool.watchdog import Watchdog
from bmqwen.serve.pool.wire import (
    Message,
    completion_from_wire,
    decode,
    encode,
    error_from_wire,
    params_to_wire,
    piece_from_wire,
)

LOG = logging.getLogger("bmqwen.serve")
LINE_BYTES = 1 << 26
# Seconds before an engine that ended is started again, the longer the more often it ends at once.
PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)

State = Literal["loading", "ready", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine's process is to load.

    Attributes:
        model: a bundle's folder.
        saved_bytes: host memory for saved conversations.
        hang_seconds: how long it may be silent once it is to end an answer: it finishes its launch first, which takes
            minutes on a simulator.
    """

    model: str
    engine: str = "auto"
    threads: int | None = None
    context_length: int | None = None
    device: int = 0
    saved_bytes: int = 0
    hang_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a loaded engine says of itself."""

    name: str
    context_length: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine last said of its memory.

    Attributes:
        memory_bytes: of the process.
        device_bytes: of its device, used by whomever; None without one, or where it does not tell.
        saved_bytes: of the conversations saved in the process.
    """

    memory_bytes: int = 0
    device_bytes: int | None = None
    conversations: int = 0
    saved_bytes: int = 0
    saved: int = 0
    restored: int = 0


class Listener(Protocol):
    """Who is told what becomes of a replica."""

    def changed(self, replica: "Replica") -> None:
        """It is free, or no longer there."""

    def failed(self, replica: "Replica", error: BmqwenError) -> None:
        """It could not be loaded at its first start."""


class Replica:
    """One engine. All methods are for the event loop's thread.

    Attributes:
        state: "ready" once loaded; "failed" while it waits to be started again.
        facts: of the loaded engine; they stay when it ends.
        current: the job that it answers now.
        held: beginnings that it has cached, as far as can be told from here.
        read_rate: prompt tokens it reads in a second, as measured lately.
        restarts: how often it had to be started again.
        hangs: how often of these because it hung.
    """

    def __init__(self, index: int, order: EngineConfig, listener: Listener) -> None:
        self.index, self._order, self._listener = index, order, listener
        self.state: State = "loading"
        self.facts: EngineFacts | None = None
        self.memory = EngineState()
        self.current: Job | None = None
        self.held: PrefixStore[None] = PrefixStore(1)
        self.read_rate = 200.0
        self.served = self.restarts = self.hangs = 0
        self.pid: int | None = None
        self._child: ChildProcess | None = None
        self._hung: EngineHungError | None = None
        loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(order.hang_seconds, self._end_hung, loop.call_later)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether it can take a job."""
        return self.state == "ready" and self.current is None

    def open(self) -> None:
        """Begin to load."""
        self._task = asyncio.create_task(self._keep_running())

    def start(self, job: Job) -> None:
        """Answer a job; the replica must be idle."""
        self.current = job
        job.state, job.started = "running", job.clock()
        self.served += 1
        self._send(
            {
                "op": "generate",
                "id": job.number,
                "prompt": job.prompt,
                "params": params_to_wire(job.params),
                "owner": job.owner,
            }
        )

    def cancel(self, job: Job) -> None:
        """End a job soon; it is free for others once the engine says so, or was killed because it does not."""
        if self.current is job:
            self._send({"op": "cancel", "id": job.number})
            self._watchdog.start()

    async def close(self) -> None:
        """End the process."""
        self.state = "closed"
        self._watchdog.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(encode(message))

    async def _keep_running(self) -> None:
        quick = 0
        while True:
            lived = False
            try:
                error: BmqwenError = await self._run_once()
                lived = self.state == "ready"
            except (OSError, ValueError) as problem:
                error = DeviceError(f"the engine cannot be started: {problem}")
            self.state = "failed"
            if self.facts is None:
                self._listener.failed(self, error)
                return
            self._lose(error)
            self.restarts += 1
            quick = 0 if lived else quick + 1
            pause = PAUSES[min(quick, len(PAUSES) - 1)]
            LOG.warning("%s; starting it again%s", error, f" in {pause:g} seconds" if pause else "")
            await asyncio.sleep(pause)
            self.state = "loading"

    async def _run_once(self) -> BmqwenError:
        """Start the process, hear it until it ends, and say why it did."""
        child = await asyncio.to_thread(
            ChildProcess, "bmqwen.serve.pool.engine_process", what=f"engine {self.index}"
        )
        self.pid, self._child, self._hung = child.pid, child, None
        try:
            reader, writer = await asyncio.open_connection(sock=child.socket, limit=LINE_BYTES)
            self._writer = writer
            order = self._order
            writer.write(encode({"op": "load", **{name: getattr(order, name) for name in order.__slots__}}))
            refused: BmqwenError | None = None
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    refused = self._hear(decode(line)) or refused
            ended: BmqwenError = await asyncio.to_thread(child.ended)
            return self._hung or refused or ended
        finally:
            self.pid = self._child = None
            self._watchdog.stop()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            # The task may be cancelled: waiting in a thread must not be.
            await asyncio.shield(asyncio.to_thread(child.close))

    def _hear(self, message: Message) -> BmqwenError | None:
        """Act on a message; the error that an engine which cannot go on reports."""
        kind, job = message["op"], self.current
        self._watchdog.heard()
        if kind == "ready":
            self.facts = EngineFacts(message["name"], message["context_length"], message["vocab_size"])
            self.memory = EngineState(**message["state"])
            self.held.clear()
            self.state = "ready"
            if self.restarts:
                LOG.warning("engine %d is ready again", self.index)
            self._listener.changed(self)
            return None
        if "id" not in message:
            return error_from_wire(message["error"])
        if job is None or job.number != message["id"]:
            return None
        if kind == "start":
            job.tell(Started())
        elif kind == "piece":
            job.tell(piece_from_wire(message))
        else:
            return self._finish(job, message)
        return None

    def _finish(self, job: Job, message: Message) -> BmqwenError | None:
        self.memory = EngineState(**message["state"])
        self.current = None
        self._watchdog.stop()
        error = None
        if message["op"] == "done":
            completion = completion_from_wire(message)
            usage = completion.usage
            if completion.finish_reason == "cancelled" and job.expired:
                completion = replace(completion, finish_reason="length")
            elif usage.prompt_tokens - usage.cached_tokens > 50 and usage.completion_tokens:
                rate = (usage.prompt_tokens - usage.cached_tokens) / max(usage.first_token_s, 1e-6)
                self.read_rate += 0.3 * (rate - self.read_rate)
            # One conversation is in the engine's own cache.
            self.held.budget = self.memory.conversations + 1
            self.held.put(job.owner, [*job.prompt, *completion.token_ids], None, 1)
            job.tell(completion)
        else:
            error = error_from_wire(message["error"])
            job.tell(error)
        if not message["usable"]:
            self.state = "failed"
            return error
        self._listener.changed(self)
        return None

    def _end_hung(self) -> None:
        """It did not come back: it is killed, and then handled like one that ended by itself."""
        self.hangs += 1
        self._hung = EngineHungError(
            f"engine {self.index} was to end an answer, gave no sign of life for {self._order.hang_seconds:g} seconds "
            "and was killed"
        )
        if self._child is not None:
            self._child.kill()
        if self._writer is not None:
            # A driver may hold even a killed process: its end of the connection is not waited for.
            self._writer.transport.abort()

    def _lose(self, error: BmqwenError) -> None:
        """The process ended: whoever it was answering is told."""
        job, self.current = self.current, None
        self.held.clear()
        if job is not None:
            kind = EngineHungError if isinstance(error, EngineHungError) else EngineLostError
            job.tell(
                kind(
                    f"the engine stopped while it was answering and is being started again; try again ({error})"
                )
            )
        self._listener.changed(self)


def load_orders(order: EngineConfig, devices: list[int], replicas: int) -> list[EngineConfig]:
    """One order for each device, or for each of several engines on the same one."""
    if devices:
        return [replace(order, device=device) for device in devices]
    return [order] * replicas


def describe(replicas: list[Replica]) -> dict[str, Any]:
    """How many engines there are in which state, for /health."""
    states = [replica.state for replica in replicas]
    return {"engines": len(states), "ready": states.count("ready")}
