"""What the server needs of engines, wherever they run."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from bmqwen.serve.pool.job import Job
from bmqwen.serve.pool.wire import EngineFacts, EngineState


class EngineView(Protocol):
    """One engine, as `/health` and `/metrics` tell of it. The attributes are those of a `Replica`."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What tells it apart in metrics; all engines of a pool have the same names."""

    @property
    def state(self) -> str:
        """ "ready" once it is loaded."""

    @property
    def memory(self) -> EngineState:
        """What it last said of its memory."""

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""

    @property
    def hangs(self) -> int:
        """How often of these because it hung."""


class Pool(Protocol):
    """Engines that answer jobs. All methods are for the event loop's thread."""

    @property
    def facts(self) -> EngineFacts | None:
        """Of the engines, which are all alike; None before one was loaded."""

    @property
    def ready(self) -> bool:
        """Whether an engine is there and new jobs are taken."""

    @property
    def draining(self) -> bool:
        """Whether the server is going down."""

    @property
    def problem(self) -> str:
        """Why engines are not ready; empty while they load for the first time, or all are."""

    @property
    def waiting(self) -> int:
        """Jobs that no engine has begun."""

    @property
    def running(self) -> int:
        """Jobs that are being answered."""

    @property
    def replicas(self) -> Sequence[EngineView]:
        """The engines."""

    def open(self) -> None:
        """Load the engines."""

    async def close(self) -> None:
        """End the engines."""

    def check(self) -> EngineFacts:
        """Return the engines' facts. Raises NotReadyError while none was loaded yet, or when the server shuts down."""

    def submit(self, job: Job) -> None:
        """Begin a job, or queue it: what becomes of it is published to it.

        Raises:
            NotReadyError: no model yet, or shutting down.
            BusyError: the queue is full.
        """

    def ahead(self, job: Job) -> int:
        """Return how many requests come before a job that waits."""

    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for any more. May be called at any time."""
