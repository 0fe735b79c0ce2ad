"""What the server needs of engines, wherever they run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from bmqwen.errors import NotReadyError
from bmqwen.serve.pool.job import Job
from bmqwen.serve.pool.wire import EngineFacts, EngineState

SHUTTING_DOWN = "the server is shutting down; try another one"


class EngineView(Protocol):
    """One engine, as `/health` and `/metrics` tell of it. The attributes are those of a `Replica`."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What tells it apart in metrics; all engines of a pool have the same names."""

    @property
    def state(self) -> str:
        """ "ready" once it is loaded."""

    @property
    def problem(self) -> str:
        """Why it is not ready; empty while it loads for the first time."""

    @property
    def memory(self) -> EngineState:
        """What it last said of its memory."""

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""

    @property
    def hangs(self) -> int:
        """How often of these because it hung."""


class Pool(ABC):
    """Engines that answer jobs. All methods are for the event loop's thread.

    Attributes:
        draining: whether the server is going down.
    """

    draining = False

    @property
    def ready(self) -> bool:
        """Whether an engine is there and new jobs are taken."""
        return not self.draining and any(engine.state == "ready" for engine in self.replicas)

    @property
    def problem(self) -> str:
        """Why engines are not ready; empty while they load for the first time, or all are."""
        return next((engine.problem for engine in self.replicas if engine.problem), "")

    def check(self) -> EngineFacts:
        """Return the engines' facts. Raises NotReadyError while none was loaded yet, or when the server shuts down."""
        facts = self.facts
        if self.draining:
            raise NotReadyError(SHUTTING_DOWN)
        if facts is None:
            raise NotReadyError("the model is still being loaded; try again in a few seconds")
        return facts

    @property
    @abstractmethod
    def facts(self) -> EngineFacts | None:
        """Of the engines, which are all alike; None before one was loaded."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Jobs that no engine has begun."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Jobs that are being answered."""

    @property
    @abstractmethod
    def replicas(self) -> Sequence[EngineView]:
        """The engines."""

    @abstractmethod
    def open(self) -> None:
        """Load the engines."""

    @abstractmethod
    async def close(self) -> None:
        """End the engines."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job, or queue it: what becomes of it is published to it.

        Raises:
            NotReadyError: no model yet, or shutting down.
            BusyError: the queue is full.
        """

    @abstractmethod
    def ahead(self, job: Job) -> int:
        """Return how many requests come before a job that waits."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for any more. May be called at any time."""
