"""Many clients, few engines: who is served when, and where."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from bmqwen.errors import BmqwenError, BusyError, NotReadyError, SlowRequestError
from bmqwen.serve.pool.job import Job
from bmqwen.serve.pool.pool import SHUTTING_DOWN, Pool
from bmqwen.serve.pool.replica import Replica
from bmqwen.serve.pool.wire import EngineConfig, EngineFacts

LONGEST_RETRY = 120


class FairQueue:
    """Jobs that wait. A client with a hundred of them delays another one by one job, not by a hundred."""

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, str], deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Job]:
        """Jobs in the order in which they would be taken."""
        for turn in zip_longest(*self._clients.values()):
            yield from filter(None, turn)

    def put(self, job: Job) -> None:
        """Add a job."""
        self._clients.setdefault(job.client, deque()).append(job)

    def put_first(self, job: Job) -> None:
        """Add a job that is the next one."""
        self._clients.setdefault(job.client, deque()).appendleft(job)
        self._clients.move_to_end(job.client, last=False)

    def take(self, job: Job) -> None:
        """Take a job out to be run: its client's next one waits until all others had their turn."""
        self.remove(job)
        if job.client in self._clients:
            self._clients.move_to_end(job.client)

    def remove(self, job: Job) -> bool:
        """Take a job out that is not to be run; returns whether it was there."""
        jobs = self._clients.get(job.client, deque())
        if job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._clients[job.client]
        return True


class Scheduler(Pool):
    """A queue in front of replicas. All methods are for the event loop's thread.

    Attributes:
        queue_limit: most jobs that wait.
        seconds: most seconds from a job's arrival to its end.
        failure: is set to the error of an engine that cannot be loaded at its first start.
    """

    def __init__(
        self,
        configs: Sequence[EngineConfig],
        *,
        queue_limit: int,
        seconds: float,
        make: type[Replica] = Replica,
    ) -> None:
        """`configs`: one for each engine; `make` makes them."""
        self.queue_limit, self.seconds = queue_limit, seconds
        self._replicas = [
            make(index, config, self._changed, self._fail) for index, config in enumerate(configs)
        ]
        self.failure: asyncio.Future[BmqwenError] = asyncio.get_running_loop().create_future()
        self._queue = FairQueue()
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._again: asyncio.TimerHandle | None = None

    @property
    def facts(self) -> EngineFacts | None:
        """Of the engines, which are all alike; None before one was loaded."""
        return next((replica.facts for replica in self.replicas if replica.facts is not None), None)

    @property
    def replicas(self) -> list[Replica]:
        """The engines."""
        return self._replicas

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs that are being answered."""
        return sum(len(replica.jobs) for replica in self.replicas)

    def open(self) -> None:
        """Load the engines."""
        for replica in self.replicas:
            replica.open()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            NotReadyError: no model yet, or shutting down.
            BusyError: the queue is full.
        """
        self.check()
        if len(self._queue) >= self.queue_limit and not any(replica.free for replica in self.replicas):
            raise self._busy(f"{len(self._queue)} requests are waiting already")
        job.state = "queued"
        self._queue.put(job)
        self._timers[job] = asyncio.get_running_loop().call_later(self.seconds, self._expire, job)
        self._dispatch()

    def ahead(self, job: Job) -> int:
        """Return how many requests come before a job that waits."""
        return self.running + next((place for place, each in enumerate(self._queue) if each is job), 0)

    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for any more. May be called at any time."""
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()
        if self._queue.remove(job):
            job.state = "over"
        for replica in self.replicas:
            if job.number in replica.jobs:
                job.state = "over"
                replica.cancel(job)

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, tell those that wait, and those that still run after `seconds`.

        Answers that nobody waits for any more are not waited for: the engine of one may hang.
        """
        self.draining = True
        for job in list(self._queue):
            self._queue.remove(job)
            job.publish(NotReadyError(SHUTTING_DOWN))
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._awaited() and loop.time() < end:
            await asyncio.sleep(0.05)
        for replica in self.replicas:
            for job in list(replica.jobs.values()):
                job.publish(NotReadyError("the server is shutting down; this answer was cut"))
                replica.cancel(job)

    async def close(self) -> None:
        """End the engines."""
        self.draining = True
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*(replica.close() for replica in self.replicas))

    def _changed(self, returned: Sequence[Job]) -> None:
        """Act on a replica that is free, or gone and has not begun some of its jobs."""
        for job in reversed(returned):
            if job.state != "over":
                job.state, job.started, job.returned = "queued", None, True
                self._queue.put_first(job)
        self._dispatch()

    def _fail(self, error: BmqwenError) -> None:
        """Note that a replica cannot be loaded."""
        if not self.failure.done():
            self.failure.set_result(error)

    def _busy(self, why: str) -> BusyError:
        """Whoever gets it comes back when the engines, as fast as they were lately, have answered those that wait."""
        rate = sum(replica.sequences / max(replica.answer_s, 1e-3) for replica in self.replicas)
        seconds = min(LONGEST_RETRY, max(1, round(len(self._queue) / rate)))
        return BusyError(f"{why}; try again in {seconds} seconds", seconds)

    def _awaited(self) -> bool:
        """Whether somebody waits for a running answer."""
        return any(job.state != "over" for replica in self.replicas for job in replica.jobs.values())

    def _expire(self, job: Job) -> None:
        """A job's time is up: it ends as soon as its engine does so, with the text that there is."""
        self._timers.pop(job, None)
        job.expired = SlowRequestError(
            f"the answer did not begin within {self.seconds:g} seconds; shorten the prompt"
        )
        if self._queue.remove(job):
            job.publish(self._waited_in_vain())
        for replica in self.replicas:
            replica.cancel(job)

    def _waited_in_vain(self) -> BmqwenError:
        """For a job that no engine took."""
        if self.ready:
            return self._busy(f"no engine was free within {self.seconds:g} seconds")
        return NotReadyError(
            f"no engine was ready within {self.seconds:g} seconds, try again later ({self.problem or 'loading'})"
        )

    def _dispatch(self) -> None:
        for job in list(self._queue):
            free = [replica for replica in self.replicas if replica.free]
            if not free:
                return
            replica = self._choose(job, free)
            if replica is not None:
                self._queue.take(job)
                replica.start(job)

    def _choose(self, job: Job, free: Sequence[Replica]) -> Replica | None:
        """The free replica that has most of the prompt cached, and answers the fewest others.

        None while a busy one has so much more of it that reading it again takes longer than the job waited so far.
        """
        if len(self.replicas) == 1:
            return free[0]
        known = {
            replica: replica.cached_prefixes.find(job.owner, job.tokens)[1]
            for replica in self.replicas
            if replica.state == "ready"
        }
        best = max(free, key=lambda replica: (known[replica], -len(replica.jobs), -replica.served))
        owner = max(known, key=lambda replica: known[replica])
        patience = (known[owner] - known[best]) / owner.read_rate - job.queue_s
        if owner in free or patience <= 0:
            return best
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(patience, self._dispatch)
        return None
