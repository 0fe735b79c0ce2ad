"""Clients take turns."""

from bmqwen.generate.params import SamplingParams
from bmqwen.serve.pool.job import Job
from bmqwen.serve.pool.scheduler import FairQueue


def job(client: str) -> Job:
    return Job([1], SamplingParams(), client=(client, ""))


def drain(queue: FairQueue) -> list[Job]:
    found = []
    while len(queue):
        following = next(iter(queue))
        queue.take(following)
        found.append(following)
    return found


def test_a_crowd_of_one_client_delays_another_by_one() -> None:
    queue = FairQueue()
    crowd = [job("a") for _ in range(5)]
    for each in crowd:
        queue.put(each)
    late = [job("b"), job("b"), job("c")]
    for each in late:
        queue.put(each)
    assert len(queue) == 8
    assert list(queue) == [crowd[0], late[0], late[2], crowd[1], late[1], *crowd[2:]]
    assert drain(queue) == [crowd[0], late[0], late[2], crowd[1], late[1], *crowd[2:]]


def test_who_comes_back_waits_for_the_others() -> None:
    queue = FairQueue()
    first, second, other = job("a"), job("a"), job("b")
    for each in (first, second, other):
        queue.put(each)
    queue.take(first)
    assert next(iter(queue)) is other


def test_a_job_leaves_once() -> None:
    queue = FairQueue()
    one, two = job("a"), job("a")
    queue.put(one)
    queue.put(two)
    assert queue.remove(one)
    assert not queue.remove(one)
    assert drain(queue) == [two]
    assert not queue.remove(two)
