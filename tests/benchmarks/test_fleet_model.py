"""The simulated fleet: times that can be worked out by hand, and what a router gains."""

import math
from dataclasses import replace

import pytest

from fleet_model import Box, BoxState, Fleet, Request, Users, most_users, percentile

BOX = Box(read_rate=100.0, write_rates=(10.0, 16.0), sequences=2, conversations=4)
ALONE = Users(think_s=5.0, turns=1.0, question=200.0, answer=50.0, spread=0.0, instructions=0)


def request(prompt: int, answer: int, asked: float = 0.0) -> Request:
    return Request(0, 1, prompt, answer, asked)


def run(box: BoxState) -> float:
    """Until nothing is left to do; returns when."""
    while (time := box.next_change()) < math.inf:
        box.advance(time)
    return box.at


def test_one_answer_takes_reading_and_writing() -> None:
    box, asked = BoxState(BOX), request(200, 50)
    box.add(asked)
    assert run(box) == pytest.approx(200 / 100 + 50 / 10)
    assert asked.first == pytest.approx(2.0)


def test_two_share_a_box() -> None:
    """The second is read for 4 s at half the rate, while the first writes 20 of its tokens at half of its."""
    box, first, second = BoxState(BOX), request(200, 50), request(200, 50)
    box.add(first)
    box.add(second)
    end = run(box)
    assert (first.first, second.first) == pytest.approx((2.0, 6.0))
    # 30 and 50 tokens left, 8 a second each; then the last 20 at 10 a second.
    assert end == pytest.approx(6.0 + 30 / 8 + 20 / 10)


def test_a_third_waits_for_a_place() -> None:
    box = BoxState(BOX)
    third = request(100, 10)
    for each in (request(100, 50), request(100, 50), third):
        box.add(each)
    assert (len(box.reading), len(box.waiting)) == (2, 1)
    run(box)
    assert third.first > 50 / 8


def test_one_user_of_a_box() -> None:
    outcome = Fleet(1, 1, box=BOX, people=ALONE, front_s=0.01).run(2000.0)
    assert outcome.p50_s == pytest.approx(2.01)
    assert outcome.p99_s == pytest.approx(2.01)
    # 7 seconds of work in 12 or so.
    assert outcome.busy == pytest.approx(7 / 12, abs=0.05)
    assert outcome.requests == pytest.approx(2000 * 2 / 3 / 12, rel=0.15)


def test_a_router_that_knows_beginnings() -> None:
    people = replace(Users(), think_s=20.0)
    prefix, least = (Fleet(4, 60, people=people, policy=policy).run(300.0) for policy in ("prefix", "least"))
    assert prefix.hit_rate > 0.9 > least.hit_rate
    assert prefix.p95_s < least.p95_s


def test_most_users_are_found() -> None:
    found = most_users(1, 6.0, 600.0, box=BOX, people=ALONE)
    more = Fleet(1, 2 * found.users + 2, box=BOX, people=ALONE).run(600.0)
    assert found.p95_s <= 6.0 < more.p95_s


def test_the_same_seed_gives_the_same() -> None:
    assert Fleet(2, 8, seed=3).run(100.0) == Fleet(2, 8, seed=3).run(100.0)


def test_percentiles() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert math.isnan(percentile([], 0.5))
