"""Who is served when and where, with engines that a test plays."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bmqwen.errors import BmqwenError, BusyError, EngineLostError, NotReadyError, SlowRequestError
from bmqwen.generate.params import Completion, Piece, SamplingParams, Usage
from bmqwen.serve.pool.job import Job, Started
from bmqwen.serve.pool.replica import Replica
from bmqwen.serve.pool.scheduler import Scheduler
from bmqwen.serve.pool.wire import EngineConfig, EngineFacts, EngineState

# Memory for nine conversations.
STATE = EngineState(conversations=9)


class PlayedReplica(Replica):
    """Ready as soon as it is opened; a test says what it answers."""

    most = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cancelled: list[Job] = []

    def open(self) -> None:
        self.receive({"op": "ready", "facts": EngineFacts("played", 100, 300, self.most), "state": STATE})

    @property
    def current(self) -> Job | None:
        """The job that it has had longest."""
        return next(iter(self.jobs.values()), None)

    def cancel(self, job: Job) -> None:
        if job.number in self.jobs:
            self.cancelled.append(job)

    async def close(self) -> None:
        self.state = "closed"

    def finish(self, finish: str = "stop") -> Job:
        """End the current job."""
        job = self.current
        assert job is not None
        completion = Completion("", (), finish, Usage(len(job.prompt), 0, 1, 0.1, 0.0))  # type: ignore[arg-type]
        self.receive(
            {"op": "done", "id": job.number, "state": STATE, "usable": True, "completion": completion}
        )
        return job


def job(*prompt: int, client: str = "", clock: Callable[[], float] = time.monotonic) -> Job:
    return Job(list(prompt or (1,)), SamplingParams(), client=(client, ""), clock=clock)


def run(
    test: Callable[[Scheduler, list[PlayedReplica]], Awaitable[None]],
    engines: int = 1,
    queue_limit: int = 10,
    seconds: float = 60,
    make: type[PlayedReplica] = PlayedReplica,
) -> None:
    """Run a test's body with an open scheduler."""

    async def body() -> None:
        scheduler = Scheduler(
            [EngineConfig("x")] * engines, queue_limit=queue_limit, seconds=seconds, make=make
        )
        scheduler.open()
        replicas = [replica for replica in scheduler.replicas if isinstance(replica, PlayedReplica)]
        await test(scheduler, replicas)
        await scheduler.close()

    asyncio.run(body())


async def error_of(of: Job) -> BmqwenError:
    """The error that a job ends with."""
    with pytest.raises(BmqwenError) as caught:
        async for _ in of.events():
            pass
    return caught.value


def test_one_at_a_time_and_the_rest_waits() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        jobs = [job(), job(), job()]
        for each in jobs:
            scheduler.submit(each)
        assert replicas[0].current is jobs[0]
        assert (scheduler.running, scheduler.waiting) == (1, 2)
        jobs[0].publish(Started())
        jobs[0].publish(Piece("hi"))
        replicas[0].finish()
        events = [event async for event in jobs[0].events()]
        assert [type(event) for event in events] == [Started, Piece, Completion]
        assert replicas[0].current is jobs[1]

    run(test)


def test_a_full_queue_refuses() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        for _ in range(3):
            scheduler.submit(job())
        with pytest.raises(BusyError, match="2 requests are waiting") as caught:
            scheduler.submit(job())
        assert 1 <= caught.value.retry_after <= 120
        replicas[0].finish()
        scheduler.submit(job())

    run(test, queue_limit=2)


def test_how_long_to_wait_is_learned_from_how_long_answers_take() -> None:
    now = 0.0

    async def asked_to_wait(scheduler: Scheduler) -> int:
        with pytest.raises(BusyError) as caught:
            scheduler.submit(job())
        return caught.value.retry_after

    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        nonlocal now
        jobs = [job(clock=lambda: now) for _ in range(32)]
        for each in jobs[:4]:
            scheduler.submit(each)
        unknown = await asked_to_wait(scheduler)
        for each in jobs[4:20]:
            now += 30
            replicas[0].finish()
            scheduler.submit(each)
        # Three wait for half a minute each.
        assert unknown < 60 < await asked_to_wait(scheduler) <= 90
        for each in jobs[20:]:
            now += 0.1
            replicas[0].finish()
            scheduler.submit(each)
        assert await asked_to_wait(scheduler) <= 2

    run(test, queue_limit=3)


def test_a_job_that_was_not_begun_goes_to_another_engine_but_once() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        first, later = job(), job()
        scheduler.submit(first)
        scheduler.submit(job())
        scheduler.submit(later)
        for end in range(2):
            (holder,) = [replica for replica in replicas if replica.current is first]
            holder._lose(EngineLostError("killed"))
            holder.open()
            if end:
                break
            assert holder.current is first
        assert isinstance(await error_of(first), EngineLostError)
        assert later in [replica.current for replica in replicas]

    run(test, engines=2)


def test_where_no_engine_is_ready_nobody_is_told_that_they_are_busy() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        replicas[0].state, replicas[0].problem = "failed", "engine 0 was killed"
        waiting = job()
        scheduler.submit(waiting)
        error = await error_of(waiting)
        assert isinstance(error, NotReadyError)
        assert "engine 0 was killed" in str(error)

    run(test, seconds=0.05)


def test_no_queue_at_all_still_serves_one() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        scheduler.submit(job())
        with pytest.raises(BusyError):
            scheduler.submit(job())
        replicas[0].finish()
        scheduler.submit(job())

    run(test, queue_limit=0)


def test_cancelling_takes_a_job_out_wherever_it_is() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        running, waiting, other = job(), job(), job()
        for each in (running, waiting, other):
            scheduler.submit(each)
        scheduler.cancel(waiting)
        assert scheduler.waiting == 1
        scheduler.cancel(running)
        scheduler.cancel(running)
        assert set(replicas[0].cancelled) == {running}
        replicas[0].finish("cancelled")
        assert replicas[0].current is other
        scheduler.cancel(job())

    run(test)


def test_time_is_up() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        silent, waiting = job(), job()
        scheduler.submit(silent)
        scheduler.submit(waiting)
        assert isinstance(await error_of(waiting), BusyError)
        assert replicas[0].cancelled == [silent]
        replicas[0].finish("cancelled")
        with pytest.raises(SlowRequestError, match="shorten the prompt"):
            await anext(silent.events())
        talking = job()
        scheduler.submit(talking)
        talking.publish(Piece("so far"))
        events = talking.events()
        assert isinstance(await anext(events), Piece)
        while not replicas[0].cancelled[1:]:
            await asyncio.sleep(0.005)
        assert talking.state == "running"
        replicas[0].finish("cancelled")
        last = await anext(events)
        assert isinstance(last, Completion)
        assert last.finish_reason == "length"

    run(test, seconds=0.05)


def test_draining_tells_everybody() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        running, waiting = job(), job()
        scheduler.submit(running)
        scheduler.submit(waiting)
        draining = asyncio.create_task(scheduler.drain(0.05))
        assert isinstance(await error_of(waiting), NotReadyError)
        with pytest.raises(NotReadyError, match="shutting down"):
            scheduler.submit(job())
        assert not scheduler.ready
        assert isinstance(await error_of(running), NotReadyError)
        await draining
        assert replicas[0].cancelled == [running]

    run(test)


def test_draining_waits_for_an_answer() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        running = job()
        scheduler.submit(running)
        draining = asyncio.create_task(scheduler.drain(60))
        await asyncio.sleep(0)
        replicas[0].finish()
        await draining
        assert [type(event) async for event in running.events()] == [Completion]

    run(test)


def test_conversations_stay_with_their_engine() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        for number in range(4):
            scheduler.submit(job(number, *range(50)))
        for _ in range(2):
            for replica in replicas:
                replica.finish()
        homes = {
            number: replica
            for replica in replicas
            for number in range(4)
            if replica.cached_prefixes.find("", [number])[1]
        }
        assert len({id(home) for home in homes.values()}) == 2
        for number in (3, 0, 2, 1):
            scheduler.submit(job(number, *range(50), 77))
            assert homes[number].current is not None
            homes[number].finish()

    run(test, engines=2)


def test_a_long_conversation_waits_for_its_engine_a_short_one_does_not() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        scheduler.submit(job(*range(200)))
        home = next(replica for replica in replicas if replica.current)
        home.finish()
        home.read_rate = 1.0  # reading it again would take minutes
        scheduler.submit(job(*range(100, 120)))
        scheduler.submit(job(*range(120, 140)))
        assert scheduler.waiting == 0
        other = replicas[1 - replicas.index(home)]
        other.finish()
        long, short = job(*range(200), 5), job(90, 91)
        scheduler.submit(long)
        scheduler.submit(short)
        assert scheduler.waiting == 1
        assert other.current is short
        home.finish()
        assert home.current is long
        other.finish()
        home.read_rate = 1e6  # reading it again takes nothing
        scheduler.submit(job(*range(200), 6))
        await asyncio.sleep(0.02)
        assert other.current is not None

    run(test, engines=2)


def test_an_engine_that_cannot_be_loaded_is_told() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        replicas[0]._on_failure(BmqwenError("no"))
        replicas[1]._on_failure(BmqwenError("again"))
        assert str(scheduler.failure.result()) == "no"

    run(test, engines=2)


class RoomyReplica(PlayedReplica):
    """Answers three at once."""

    most = 3


def test_an_engine_of_several_sequences_gets_several_jobs() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        jobs = [job() for _ in range(5)]
        for each in jobs:
            scheduler.submit(each)
        assert (scheduler.running, scheduler.waiting) == (3, 2)
        scheduler.cancel(jobs[1])
        assert replicas[0].cancelled == [jobs[1]]
        replicas[0].finish()
        assert list(replicas[0].jobs.values()) == [jobs[1], jobs[2], jobs[3]]
        # Its process ends: who was being answered is told, who was not begun is served by the next one.
        jobs[2].publish(Started())
        replicas[0]._lose(EngineLostError("killed"))
        assert isinstance(await error_of(jobs[2]), EngineLostError)
        replicas[0].open()
        assert list(replicas[0].jobs.values()) == [jobs[3], jobs[4]]

    run(test, make=RoomyReplica)


def test_jobs_are_spread_over_engines() -> None:
    async def test(scheduler: Scheduler, replicas: list[PlayedReplica]) -> None:
        for number in range(4):
            scheduler.submit(job(number))
        assert [len(replica.jobs) for replica in replicas] == [2, 2]

    run(test, engines=2, make=RoomyReplica)
