"""The server's side of one engine's process: starts it, talks to it, starts it again when it ends or hangs."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Literal

from bmqwen.errors import BmqwenError, DeviceError, EngineHungError, EngineLostError
from bmqwen.generate.conversation_cache import PrefixStore
from bmqwen.runtime.child_process import STOP_SECONDS, ChildProcess
from bmqwen.serve.pool.job import Job, Read, Started
from bmqwen.serve.pool.watchdog import Watchdog
from bmqwen.serve.pool.wire import EngineConfig, EngineFacts, EngineState, Message, decode, encode
from bmqwen.util.text import counted

LOG = logging.getLogger("bmqwen.serve")
LINE_BYTES = 1 << 26
# An engine that keeps its conversations writes them down before it ends.
KEEP_SECONDS = 30.0
ENGINE_MODULE = "bmqwen.serve.pool.engine_process"
# Seconds before an engine that ended is started again, the longer the more often it ended without an answer between.
PAUSES = (0, 1, 2, 5, 10, 30)
# How often an engine is started that never was ready, unless it says itself why it cannot be.
FIRST_TRIES = 3
# Weight of the newest answer in averages.
NEWEST = 0.3

State = Literal["loading", "ready", "failed", "closed"]


class Replica:
    """One engine. All methods are for the event loop's thread.

    Attributes:
        state: "ready" once loaded; "failed" while it waits to be started again.
        problem: why it ended or could not be loaded; empty once it is ready again.
        facts: of the loaded engine; they stay when it ends.
        jobs: those that it answers now, by their numbers.
        cached_prefixes: beginnings that it has cached, as far as can be told from here.
        read_rate: prompt tokens it reads in a second, as measured lately.
        answer_s: seconds that a job takes, others beside it, as measured lately.
        restarts: how often it had to be started again.
        hangs: how often of these because it hung.
    """

    def __init__(
        self,
        index: int,
        config: EngineConfig,
        on_change: Callable[[list[Job]], None],
        on_failure: Callable[[BmqwenError], None],
    ) -> None:
        """Nothing runs before `open`.

        Args:
            index: its number.
            config: what it is to load.
            on_change: is called when it is free, or no longer there: then with the jobs that it had not begun.
            on_failure: is called if it cannot be loaded at its first start.
        """
        self.index, self._config = index, config
        self._on_change, self._on_failure = on_change, on_failure
        self.state: State = "loading"
        self.problem = ""
        self.facts: EngineFacts | None = None
        self.memory = EngineState()
        self.jobs: dict[int, Job] = {}
        self._ended_jobs: set[int] = set()
        self.cached_prefixes: PrefixStore[None] = PrefixStore(1)
        self.read_rate, self.answer_s = 200.0, 5.0
        self.served = self.restarts = self.hangs = 0
        self._failures = 0
        self._refused = False
        self._child: ChildProcess | None = None
        self._hung: EngineHungError | None = None
        later = asyncio.get_running_loop().call_later
        silent = (
            f"engine {index} was to end an answer, gave no sign of life for {config.hang_seconds:g} seconds "
            "and was killed"
        )
        unloaded = (
            f"engine {index} was not loaded after {config.load_seconds:g} seconds and was killed; give it "
            "more with --load-seconds"
        )
        self._ending = Watchdog(config.hang_seconds, partial(self._end_hung, silent), later)
        self._loading = Watchdog(config.load_seconds, partial(self._end_hung, unloaded), later)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What tells it apart in metrics."""
        return {"engine": str(self.index)}

    @property
    def sequences(self) -> int:
        """Most jobs that it answers at once."""
        return 1 if self.facts is None else self.facts.sequences

    @property
    def free(self) -> int:
        """How many jobs it can take now."""
        return self.sequences - len(self.jobs) if self.state == "ready" else 0

    def open(self) -> None:
        """Begin to load."""
        self._task = asyncio.create_task(self._keep_running())

    def start(self, job: Job) -> None:
        """Answer a job; the replica must be free."""
        self.jobs[job.number] = job
        job.state, job.started = "running", job.clock()
        self.served += 1
        self._send(
            {
                "op": "generate",
                "id": job.number,
                "prompt": job.prompt,
                "params": job.params,
                "owner": job.owner,
            }
        )

    def cancel(self, job: Job) -> None:
        """End a job soon; its place is free once the engine says so, or was killed because it does not."""
        if job.number in self.jobs:
            self._ended_jobs.add(job.number)
            self._send({"op": "cancel", "id": job.number})
            self._ending.start()

    async def close(self) -> None:
        """End the process."""
        self.state = "closed"
        self._ending.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def receive(self, message: Message) -> BmqwenError | None:
        """Act on a message of the engine; returns the error of an engine that cannot go on."""
        kind, job = message["op"], self.jobs.get(message.get("id", 0))
        self._ending.heard()
        if kind == "ready":
            self._get_ready(message)
        elif "id" not in message:
            self._refused = True
            return message["fault"].error()
        elif job is None:
            pass
        elif kind == "start":
            job.publish(Started())
        elif kind == "read":
            job.publish(Read(message["done"]))
        elif kind == "piece":
            job.publish(message["piece"])
        elif not message["usable"]:
            return message["fault"].error()
        else:
            self._finish(job, message)
        return None

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(encode(message))

    async def _keep_running(self) -> None:
        while True:
            try:
                error = await self._run_once()
            except OSError as problem:
                error = DeviceError(f"engine {self.index} cannot be started: {problem}")
            except Exception as problem:
                LOG.exception("engine %d: its messages cannot be used", self.index)
                error = DeviceError(f"engine {self.index} sent a message that cannot be used: {problem!r}")
            self._lose(error)
            if self.facts is None and (self._refused or self._failures + 1 >= FIRST_TRIES):
                self._on_failure(error)
                return
            pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
            self.restarts += 1
            LOG.warning("%s; starting it again%s", error, f" in {counted(pause, 'second')}" if pause else "")
            await asyncio.sleep(pause)
            self.state = "loading"

    async def _run_once(self) -> BmqwenError:
        """Start the process, hear it until it ends, and say why it did."""
        self._refused = False
        child = await asyncio.to_thread(ChildProcess, ENGINE_MODULE, what=f"engine {self.index}")
        self._child, self._hung = child, None
        self._loading.start()
        try:
            reader, self._writer = await asyncio.open_connection(sock=child.socket, limit=LINE_BYTES)
            self._send({"op": "load", "config": self._config})
            error: BmqwenError | None = None
            with contextlib.suppress(ConnectionError):
                # An engine that is killed may leave half a line.
                while error is None and (line := await reader.readline()).endswith(b"\n"):
                    error = self.receive(decode(line))
            self.state = "failed"
            if error is None:
                ended = await asyncio.to_thread(child.ended)
                error = self._hung or ended
            else:
                await asyncio.to_thread(child.log_output)
                if self.facts is not None:
                    error = DeviceError(f"engine {self.index} failed: {error}")
            self._lose(error)
            return error
        finally:
            self._child = None
            self._ending.stop()
            self._loading.stop()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            patience = KEEP_SECONDS if self._config.kept else STOP_SECONDS
            # The task may be cancelled: waiting in a thread must not be.
            if await asyncio.shield(asyncio.to_thread(child.close, patience)):
                LOG.warning("engine %d did not end when told to, and was killed", self.index)

    def _get_ready(self, message: Message) -> None:
        self._loading.stop()
        self.facts, self.memory = message["facts"], message["state"]
        self.cached_prefixes.clear()
        self.state, self.problem = "ready", ""
        if self.restarts:
            LOG.warning("engine %d is ready again", self.index)
        self._on_change([])

    def _finish(self, job: Job, message: Message) -> None:
        self.memory = message["state"]
        del self.jobs[job.number]
        self._ended_jobs.discard(job.number)
        if not self._ended_jobs:
            self._ending.stop()
        self._failures = 0
        self.answer_s += NEWEST * (job.running_s - self.answer_s)
        if message["op"] == "done":
            completion = message["completion"]
            usage = completion.usage
            read = usage.prompt_tokens - usage.cached_tokens
            if completion.finish_reason != "cancelled" and read > 50 and usage.completion_tokens:
                self.read_rate += NEWEST * (read / max(usage.first_token_s, 1e-6) - self.read_rate)
            # So many conversations are in the engine's own cache.
            self.cached_prefixes.budget = self.memory.conversations + self.sequences
            self.cached_prefixes.put(job.owner, [*job.prompt, *completion.token_ids], None, 1)
            job.publish(completion)
        else:
            job.publish(message["fault"].error())
        self._on_change([])

    def _end_hung(self, reason: str) -> None:
        """It did not come back: it is killed, and then handled like one that ended by itself."""
        self.hangs += 1
        self._hung = EngineHungError(reason)
        if self._child is not None:
            self._child.kill()
        if self._writer is not None:
            # A driver may hold even a killed process: its end of the connection is not waited for.
            self._writer.transport.abort()

    def _lose(self, error: BmqwenError) -> None:
        """Act on the end of the process: its jobs are told, or go back to the queue if they had not been begun."""
        self.state, self.problem = "failed", str(error)
        jobs, self.jobs = list(self.jobs.values()), {}
        self._ended_jobs.clear()
        self.cached_prefixes.clear()
        returned = [job for job in jobs if not job.begun and not job.returned and job.expired is None]
        kind = EngineHungError if isinstance(error, EngineHungError) else EngineLostError
        reason = "the engine stopped while it was answering and is being started again; try again"
        for job in jobs:
            if job not in returned:
                job.publish(kind(f"{reason} ({error})"))
        self._on_change(returned)
