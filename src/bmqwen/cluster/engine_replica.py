"""One engine as a replica of Ray's: the embedded server's queue and watchdog around one engine's process."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, replace
from typing import Any

from bmqwen.artifact.bundle import Bundle
from bmqwen.cluster.chips import ClaimedChips
from bmqwen.cluster.config import FleetModel
from bmqwen.cluster.model_card import ModelCard
from bmqwen.cluster.prefixes import beginnings, landmarks
from bmqwen.errors import BmqwenError, DeviceError, EngineLostError, InputError
from bmqwen.generate.params import Completion, Piece
from bmqwen.resolve import resolve_bundle
from bmqwen.serve.pool.job import Event, Job, Read, Started
from bmqwen.serve.pool.scheduler import Scheduler
from bmqwen.serve.pool.sequences import sequences_of
from bmqwen.serve.pool.wire import EngineConfig, Fault, Message, decode, encode
from bmqwen.util.progress import Silent
from bmqwen.util.text import counted
from bmqwen.version import __version__

LOG = logging.getLogger("bmqwen.cluster")
# Beginnings that are told at once: each takes 9 bytes on its way to every process that takes requests in.
MOST_TOLD = 128
# An engine that is not ready for so long is given up, and Ray starts another replica, maybe elsewhere.
PATIENCE_SECONDS = 120.0
# An answer of which there is nothing to say for so long is said to be under way.
BEAT_SECONDS = 5.0


class EngineReplica:
    """A model on a node's chips, or on its processor. The methods are Ray Serve's, but `describe` and `generate`."""

    async def __init__(  # type: ignore[misc]
        self, text: str, version: str, seconds: float, node: Callable[[], str]
    ) -> None:
        """Load the model, fetching it first where this node does not have it.

        Args:
            text: what to load, a FleetModel in JSON.
            version: bmqwen's, where the fleet was started.
            seconds: most from a job's arrival to its end.
            node: returns this node's address.

        Raises:
            InputError: this node has another version of bmqwen, or the model was compiled for more chips or fewer.
            BmqwenError: the model cannot be fetched, or the engine not be loaded.
        """
        self._node = node()
        if version != __version__:
            raise InputError(
                f"node {self._node} has bmqwen {__version__}, but the fleet was started with {version}: install "
                "the same version on all nodes"
            )
        self._model = model = FleetModel.model_validate_json(text)
        bundle = await asyncio.to_thread(self._resolve)
        parts = len(bundle.parts) if bundle.kind == "bmodel" else 1
        if parts != model.chips:
            raise InputError(
                f"{bundle.model} was compiled for {counted(parts, 'chip')}, but each of its replicas is to have "
                f"{model.chips}: give it chips: {parts}, or a bundle that was compiled with --parts {model.chips}"
            )
        self._chips = ClaimedChips(parts) if model.chip and model.engine in ("auto", "tpu") else None
        config = EngineConfig(
            str(bundle.place.absolute()),
            model.engine,
            model.threads,
            model.context,
            devices=self._chips.indices if self._chips else (0,),
            saved_bytes=model.cache_mb << 20,
            draft=model.draft,
            sequences=sequences_of(bundle, model.sequences, model.context, 1),
            reproducible=model.reproducible,
            hang_seconds=model.hang_seconds,
            load_seconds=model.load_seconds,
        )
        self._scheduler = Scheduler([config], queue_limit=model.queue, seconds=seconds)
        self._told: deque[int] = deque(maxlen=MOST_TOLD)
        self._ready_at = time.monotonic()
        self._scheduler.open()
        while not self._scheduler.ready:
            if self._scheduler.failure.done():
                raise self._scheduler.failure.result()
            await asyncio.sleep(0.05)
        self._card = ModelCard.of(bundle, self._scheduler.check())

    async def __del__(self) -> None:
        """End the engine; Ray calls it when the answers under way have ended."""
        if hasattr(self, "_scheduler"):
            await self._scheduler.close()

    async def describe(self, *, model: str) -> ModelCard:  # noqa: ARG002  (the router chooses by it)
        """Return what was loaded."""
        return self._card

    async def generate(
        self,
        line: bytes,
        *,
        chain: list[int],  # noqa: ARG002  (the router chooses by it)
        model: str,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the messages of an engine's process that follow a `generate` (see `serve/pool/wire.py`).

        Those that are there at the same time come together, for each part of the stream takes Ray a millisecond. While
        there are none, an empty part comes every BEAT_SECONDS. Closing this cancels the answer.
        """
        if model != self._model.identity:
            raise EngineLostError("the replica has another model")
        message = decode(line)
        job = Job(message["prompt"], message["params"], message["owner"], message["client"])
        try:
            self._scheduler.submit(job)
            last: Event | None = None
            while not isinstance(last, Completion | BmqwenError):
                try:
                    events = await asyncio.wait_for(job.next_events(), BEAT_SECONDS)
                except asyncio.TimeoutError:
                    yield b""
                    continue
                last = events[-1]
                if isinstance(last, Completion):
                    self._note(job, last)
                yield b"".join(encode(_told(event)) for event in events)
        except BmqwenError as error:
            yield encode(_told(error))
        finally:
            self._scheduler.cancel(job)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Return what tells this replica from those of before or after an update."""
        return {"model": self._model.identity}

    def record_routing_stats(self) -> dict[str, Any]:
        """Return what the router and the metrics need of this replica; Ray carries it to them."""
        replica = self._scheduler.replicas[0]
        return {
            "node": self._node,
            "state": replica.state,
            "problem": replica.problem,
            "load": self._scheduler.waiting + self._scheduler.running,
            "sequences": replica.sequences,
            "read_rate": replica.read_rate,
            "answer_s": replica.answer_s,
            "memory": asdict(replica.memory),
            "restarts": replica.restarts,
            "hangs": replica.hangs,
            "beginnings": list(self._told),
        }

    async def check_health(self) -> None:
        """Raise DeviceError for an engine that does not come back."""
        now = time.monotonic()
        if self._scheduler.ready:
            self._ready_at = now
        elif now - self._ready_at > PATIENCE_SECONDS + self._model.load_seconds:
            raise DeviceError(f"the engine on {self._node} does not come back: {self._scheduler.problem}")

    def _resolve(self) -> Bundle:
        """The bundle in this node's cache, fetched or converted where it is not there yet."""
        return resolve_bundle(self._model.model or None, self._model.precision, progress=_Log(), chats=True)

    def _note(self, job: Job, completion: Completion) -> None:
        for mark in landmarks(beginnings(job.owner, [*job.prompt, *completion.token_ids])):
            if mark not in self._told:
                self._told.append(mark)


def _told(event: Event) -> Message:
    """An event as a message."""
    if isinstance(event, BmqwenError):
        return {"op": "error", "fault": Fault.of(event)}
    if isinstance(event, Started):
        return {"op": "start"}
    if isinstance(event, Read):
        return {"op": "read", "done": event.done}
    if isinstance(event, Piece):
        return {"op": "piece", "piece": event}
    return {"op": "done", "completion": replace(event, text="", thoughts="", logprobs=())}


class _Log(Silent):
    """What is fetched and converted, in the replica's log."""

    def start(self, label: str, total: int | None) -> None:
        """Write down what begins."""
        del total
        LOG.info("%s", label)

    def note(self, text: str) -> None:
        """Write down what a person should know."""
        LOG.info("%s", text)
