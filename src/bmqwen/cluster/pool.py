"""The replicas of a model as the server's pool: Ray finds, places and restarts them, and carries what is said."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from bmqwen.cluster.known_routers import replicas_of
from bmqwen.cluster.model_card import ModelCard
from bmqwen.cluster.prefixes import beginnings
from bmqwen.errors import BmqwenError, BusyError, DeviceError, EngineLostError, NotReadyError
from bmqwen.serve.pool.job import Job, Read, Started
from bmqwen.serve.pool.pool import Pool
from bmqwen.serve.pool.wire import EngineFacts, EngineState, Message, decode, encode

LOG = logging.getLogger("bmqwen.cluster")
# A replica ends its answers in time itself; this is for jobs that never found one.
GRACE_SECONDS = 5.0
# A replica from which nothing comes for so long, not even that an answer is under way, is lost: a connection to a
# machine without power stays open.
SILENT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica, as it last told of itself."""

    labels: Mapping[str, str]
    state: str
    problem: str
    memory: EngineState
    restarts: int
    hangs: int


class RayPool(Pool):
    """The replicas of one deployment, for the loop of a process that takes requests in."""

    def __init__(
        self, handle: DeploymentHandle[Any], card: ModelCard, identity: str, *, seconds: float
    ) -> None:
        """`identity` is that of the model which replicas must have; `seconds` are most that a job may take."""
        # Not by reference: the replica is called by gRPC, and messages are not kept as Ray's objects.
        self._handle = handle.options(method_name="generate", stream=True, _by_reference=False)
        self._card, self._identity, self._seconds = card, identity, seconds
        self._tasks: dict[Job, asyncio.Task[None]] = {}

    @property
    def facts(self) -> EngineFacts:
        """Of the replicas, which are all alike."""
        return self._card.facts

    @property
    def replicas(self) -> Sequence[ReplicaView]:
        """Those that Ray has, of this model."""
        return [
            _view(replica.replica_id.unique_id, replica.routing_stats)
            for replica in replicas_of(self._handle.app_name, self._handle.deployment_name)
            if replica.replica_metadata.get("model") == self._identity
        ]

    @property
    def waiting(self) -> int:
        """Jobs of this process that no replica has begun."""
        return len(self._tasks) - self.running

    @property
    def running(self) -> int:
        """Jobs of this process that are being answered."""
        return sum(job.begun for job in self._tasks)

    def open(self) -> None:
        """Do nothing: Ray has loaded the replicas."""

    async def close(self) -> None:
        """End the answers under way."""
        self.draining = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(self, job: Job) -> None:
        """Send a job to a replica. Raises NotReadyError when this process goes down."""
        self.check()
        job.state = "queued"
        self._tasks[job] = asyncio.create_task(self._answer(job))

    def ahead(self, job: Job) -> int:
        """Return how many requests of this process came before a job that waits, and are not over."""
        return sum(other.number < job.number for other in self._tasks)

    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for any more."""
        task = self._tasks.get(job)
        # The last message of one that has been answered is still to come.
        if task is not None and job.state != "over":
            job.state = "over"
            task.cancel()

    async def _answer(self, job: Job) -> None:
        try:
            await asyncio.wait_for(self._try_twice(job), self._seconds + GRACE_SECONDS)
        except asyncio.TimeoutError:
            job.publish(
                NotReadyError(
                    f"no engine was ready within {self._seconds:g} seconds, try again later "
                    f"({self.problem or 'loading'})"
                )
            )
        except BmqwenError as error:
            job.publish(error)
        except Exception as error:
            LOG.exception("a job failed")
            job.publish(DeviceError(f"the replica failed: {type(error).__name__}"))
        finally:
            self._tasks.pop(job, None)

    async def _try_twice(self, job: Job) -> None:
        """Answer a job, a second time by another replica if the first one is lost before it said anything."""
        line = encode(
            {
                "op": "generate",
                "prompt": job.prompt,
                "params": job.params,
                "owner": job.owner,
                "client": job.client,
            }
        )
        chain = beginnings(job.owner, job.prompt)
        try:
            await self._try(job, line, chain)
        except EngineLostError:
            if job.pieces:
                raise
            job.returned = True
            await self._try(job, line, chain)

    async def _try(self, job: Job, line: bytes, chain: list[int]) -> None:
        """Send a job to the replica that the router chooses. Raises EngineLostError if it ends before its answer."""
        response = self._handle.remote(line, chain=chain, model=self._identity)
        try:
            # To its end: only then does Ray count the request as answered.
            async for data in _heard(response):
                for line in data.splitlines():
                    self._receive(job, decode(line))
            if job.state == "over":
                return
            raise EngineLostError("the engine stopped while it was answering; try again")
        except BackPressureError as error:
            raise BusyError(
                "all engines have as many requests as they can take; try again in 5 seconds", 5
            ) from error
        except DeploymentUnavailableError as error:
            raise NotReadyError(f"no engine can be started: {error}") from error
        except RayError as error:
            # What a replica itself finds wrong it says in a message.
            LOG.warning("a replica was lost: %s", error)
            raise EngineLostError(
                "the engine stopped while it was answering and is being started again; try again"
            ) from error
        finally:
            response.cancel()

    def _receive(self, job: Job, message: Message) -> None:
        kind = message["op"]
        if kind == "start":
            # A second replica begins the same answer.
            if not job.begun:
                job.state, job.started = "running", job.clock()
                job.publish(Started())
        elif kind == "read":
            job.publish(Read(message["done"]))
        elif kind == "piece":
            job.publish(message["piece"])
        elif kind == "done":
            job.publish(message["completion"])
        else:
            error = message["fault"].error()
            if isinstance(error, EngineLostError):
                raise error
            job.publish(error)


async def _heard(messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield messages. Raises EngineLostError when none comes for SILENT_SECONDS; the first may take longer."""
    seconds = None
    while True:
        try:
            yield await asyncio.wait_for(anext(messages), seconds)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise EngineLostError(
                f"the machine that was answering has been silent for {SILENT_SECONDS:g} seconds; try again"
            ) from error
        seconds = SILENT_SECONDS


def _view(name: str, told: Mapping[str, Any]) -> ReplicaView:
    """A replica; one that has told nothing yet is ready, for Ray has checked it."""
    return ReplicaView(
        {"node": told.get("node", ""), "replica": name},
        told.get("state", "ready"),
        told.get("problem", ""),
        EngineState(**told.get("memory", {})),
        told.get("restarts", 0),
        told.get("hangs", 0),
    )
