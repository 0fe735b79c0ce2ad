"""A fleet on a Ray cluster of several node processes: `pytest --cluster tests/cluster`."""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support.live_server import LiveServer
from support.ray_fleet import RayFleet, models_of

pytestmark = pytest.mark.cluster
RUNNING = 32
# A text, and the bytes and the log-probability of each of its tokens.
Answered = tuple[str, list[tuple[bytes, float]]]


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}: what about {number * 37} things, and {number}?"}]


def test_official_client_gets_what_the_embedded_server_answers(
    ray_fleet: RayFleet, embedded: LiveServer
) -> None:
    """Token for token: their bytes and their log-probabilities, and the text, streamed or not, of two turns."""

    def answers(url: str) -> list[Answered]:
        client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        found = []
        for number in range(6):
            messages = question(number)
            for turn in ("and more?", "why?"):
                response = client.chat.completions.create(
                    model="rambler",
                    messages=messages,
                    temperature=0,
                    max_tokens=40,
                    logprobs=True,
                    stream=number % 2 == 0,
                )
                if number % 2 == 0:
                    choices = [chunk.choices[0] for chunk in response if chunk.choices]
                    text = "".join(choice.delta.content or "" for choice in choices)
                else:
                    choices = response.choices
                    text = choices[0].message.content
                tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
                found.append((text, [(bytes(token.bytes), token.logprob) for token in tokens]))
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": turn}]
        client.close()
        return found

    ours = answers(ray_fleet.url)
    assert ours == answers(embedded.url)
    assert len({text for text, _ in ours}) > 6
    assert sum(len(tokens) for _, tokens in ours) > 200


def test_models_are_chosen_by_name(ray_fleet: RayFleet, talker: Path) -> None:
    del talker
    listed = httpx.get(f"{ray_fleet.url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["rambler", "talker"]
    body = {"model": "talker", "messages": question(1), "max_tokens": 5}
    assert ask(ray_fleet, body).json()["choices"][0]["message"]["content"].startswith("hello")
    refused = ask(ray_fleet, {**body, "model": "nobody"})
    assert refused.status_code == 404
    assert "this server has 'rambler', 'talker'" in refused.json()["error"]["message"]


def test_second_turns_go_where_the_first_ones_were(ray_fleet: RayFleet) -> None:
    """Hit rate with 6 conversations at once in 12 places: at least 95 %."""

    async def conversation(client: httpx.AsyncClient, number: int) -> list[float]:
        # So long that what is new of a later prompt is less than a third of it.
        content = f"{question(1000 + number)[0]['content']} " + f"{number} apples, " * 12
        messages: list[dict[str, str]] = [{"role": "user", "content": content}]
        shares = []
        for _ in range(3):
            response = await client.post(
                f"{ray_fleet.url}/v1/chat/completions",
                json={"model": "rambler", "messages": messages, "temperature": 0, "max_tokens": 24},
            )
            body = response.json()
            usage = body["usage"]
            shares.append(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])
            messages += [body["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        return shares

    async def all_of_them() -> list[list[float]]:
        places = asyncio.Semaphore(6)

        async def one(client: httpx.AsyncClient, number: int) -> list[float]:
            async with places:
                return await conversation(client, number)

        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(*(one(client, number) for number in range(48)))

    found = asyncio.run(all_of_them())
    later = [share for shares in found for share in shares[1:]]
    hits = sum(share > 0.6 for share in later) / len(later)
    print(f"hit rate {hits:.1%} of {len(later)} later turns", sorted(round(share, 2) for share in later)[:16])
    assert hits >= 0.95


def test_leaving_ends_the_answer(ray_fleet: RayFleet) -> None:
    body = {"model": "rambler", "messages": question(5), "max_tokens": 3000, "stream": True}
    with httpx.stream("POST", f"{ray_fleet.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 30
    while value(ray_fleet, "bmqwen_cancelled_answers_total", "rambler") < 1 or value(
        ray_fleet, "bmqwen_running", "rambler"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_too_many_requests_are_told_when_to_come_back(
    ray_fleet: RayFleet, rambler: Path, talker: Path
) -> None:
    del rambler, talker

    # One replica with 2 sequences and a queue of 32.
    async def crowd() -> list[httpx.Response]:
        body = {"model": "talker", "messages": question(2), "max_tokens": 60, "logit_bias": {"0": 1}}
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=200)) as client:
            return await asyncio.gather(
                *(client.post(f"{ray_fleet.url}/v1/chat/completions", json=body) for _ in range(90))
            )

    found = asyncio.run(crowd())
    codes = {response.status_code for response in found}
    assert codes <= {200, 429}
    busy = [response for response in found if response.status_code == 429]
    assert busy
    assert all(int(response.headers["retry-after"]) >= 1 for response in busy)
    assert busy[0].json()["error"]["code"] == "queue_full"


@dataclass
class Outcome:
    """What came of one answer."""

    text: str = ""
    error: str = ""
    done: bool = False
    begun: bool = False


class Answers:
    """Many answers under way, in a thread of their own."""

    def __init__(self, fleet: RayFleet, count: int = RUNNING, tokens: int = 500) -> None:
        self.outcomes = [Outcome() for _ in range(count)]
        self._url, self._tokens = f"{fleet.url}/v1/chat/completions", tokens
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()

    async def _all(self) -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=300, limits=limits) as client:
            await asyncio.gather(*(self._one(client, number) for number in range(len(self.outcomes))))

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        outcome = self.outcomes[number]
        body = {
            "model": "rambler",
            "messages": question(number),
            "temperature": 0,
            "max_tokens": self._tokens,
            "stream": True,
        }
        try:
            async with client.stream("POST", self._url, json=body) as response:
                if response.status_code != 200:
                    outcome.error = json.loads(await response.aread())["error"]["code"]
                    return
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        outcome.done = not outcome.error
                    elif line.startswith("data: "):
                        event = json.loads(line[6:])
                        if "error" in event:
                            outcome.error = event["error"]["code"]
                        else:
                            outcome.begun = True
                            outcome.text += event["choices"][0]["delta"].get("content") or ""
        except httpx.HTTPError as error:
            outcome.error = repr(error)

    def wait_for_begun(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while sum(outcome.begun for outcome in self.outcomes) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def join(self) -> list[Outcome]:
        self._thread.join(300)
        assert not self._thread.is_alive()
        return self.outcomes


@pytest.fixture(scope="module")
def expected(ray_fleet: RayFleet) -> list[str]:
    """What all these answers are when nothing happens."""
    outcomes = Answers(ray_fleet).join()
    assert all(outcome.done for outcome in outcomes), [outcome.error for outcome in outcomes]
    return [outcome.text for outcome in outcomes]


def kill_replica(fleet: RayFleet) -> None:
    os.kill(fleet.replicas("rambler")[0], signal.SIGKILL)


def kill_node(fleet: RayFleet) -> None:
    fleet.node("kill")


@pytest.mark.parametrize("kill", [kill_replica, kill_node])
def test_what_is_killed_takes_only_its_own_answers(
    kill: Callable[[RayFleet], None], ray_fleet: RayFleet, expected: list[str]
) -> None:
    """Of 32 answers, those on what is killed get the documented error or are answered by another one."""
    ray_fleet.wait_for(4, 90)
    answers = Answers(ray_fleet)
    answers.wait_for_begun(8)
    kill(ray_fleet)
    killed = time.monotonic()
    outcomes = answers.join()
    lost = [outcome for outcome in outcomes if outcome.error]
    assert {outcome.error for outcome in lost} <= {"engine_lost"}
    # 4 at once on each of the three replicas, of which a node has two at most.
    assert len(lost) <= 8
    for outcome, text in zip(outcomes, expected, strict=True):
        assert outcome.error or outcome.text == text
        # Nothing is mixed: what came before the error is the beginning of the same answer.
        assert text.startswith(outcome.text)
    ray_fleet.wait_for(4, 60)
    back = time.monotonic() - killed
    print(f"{len(lost)} of {len(outcomes)} answers lost; all engines back {back:.1f} s after the end")
    if kill is kill_node:
        ray_fleet.node("add")


def test_a_replica_that_falls_silent(ray_fleet: RayFleet) -> None:
    """As one does whose machine lost its power: its connections stay open. Its answers end, no others do."""
    ray_fleet.wait_for(4, 90)
    answers = Answers(ray_fleet, count=6, tokens=1500)
    answers.wait_for_begun(6)
    silent = ray_fleet.replicas("rambler")[0]
    os.kill(silent, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        outcomes = answers.join()
    finally:
        os.kill(silent, signal.SIGKILL)
    print(
        f"{sum(bool(each.error) for each in outcomes)} of 6 answers ended after {time.monotonic() - begin:.0f} s"
    )
    assert {each.error for each in outcomes} == {"", "engine_lost"}
    ray_fleet.wait_for(4, 90)


def test_an_update_loses_no_answer(ray_fleet: RayFleet, rambler: Path, talker: Path) -> None:
    ray_fleet.wait_for(4, 90)
    before = set(ray_fleet.replicas("rambler"))
    stop, codes = threading.Event(), []

    def asks(number: int) -> None:
        body = {"model": "rambler", "messages": question(number), "temperature": 0, "max_tokens": 60}
        with httpx.Client(timeout=120) as client:
            while not stop.is_set():
                codes.append(client.post(f"{ray_fleet.url}/v1/chat/completions", json=body).status_code)

    threads = [threading.Thread(target=asks, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        ray_fleet.serve(*models_of(rambler, talker, update="second"))
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    after = set(ray_fleet.replicas("rambler"))
    assert len(after) == 3
    assert not before & after
    print(f"{len(codes)} requests during the update")
    ray_fleet.serve(*models_of(rambler, talker, update="second"))
    assert set(ray_fleet.replicas("rambler")) == after, "nothing has changed"
    assert len(codes) > 20
    assert set(codes) == {200}


def test_a_lost_front_is_told_in_our_words(ray_fleet: RayFleet) -> None:
    """Streams end in the error `engine_lost`, whole answers become it, and the fleet is back within 60 s."""
    ray_fleet.wait_for(4, 90)
    whole: list[httpx.Response] = []
    body = {"model": "rambler", "messages": question(7), "temperature": 0, "max_tokens": 1500}
    asks = threading.Thread(target=lambda: whole.append(ask(ray_fleet, body)))
    asks.start()
    answers = Answers(ray_fleet, count=4, tokens=1500)
    answers.wait_for_begun(4)
    os.kill(ray_fleet.replicas("front")[0], signal.SIGKILL)
    assert {outcome.error for outcome in answers.join()} == {"engine_lost"}
    asks.join(120)
    assert whole[0].status_code == 503
    assert whole[0].json()["error"]["code"] == "engine_lost"
    back = ray_fleet.wait_for(4, 60)
    print(f"the front is back after {back:.1f} s")


def test_replicas_follow_the_queue(ray_fleet: RayFleet, rambler: Path, talker: Path) -> None:
    """One replica becomes two while many requests wait, and one again when few do; no request fails meanwhile."""
    scale = {"min": 1, "max": 2, "requests": 2, "up_seconds": 1, "down_seconds": 5}
    growing = {**models_of(rambler, talker)[0], "name": "growing", "replicas": scale}
    ray_fleet.serve(*models_of(rambler, talker, update="second"))
    others = set(ray_fleet.replicas("rambler"))
    ray_fleet.serve(*models_of(rambler, talker, update="second"), growing)
    assert set(ray_fleet.replicas("rambler")) == others
    assert len(ray_fleet.replicas("growing")) == 1
    crowd, everybody, codes = threading.Event(), threading.Event(), []

    def asks(number: int, leave: threading.Event) -> None:
        body = {"model": "growing", "messages": question(number), "temperature": 0, "max_tokens": 100}
        with httpx.Client(timeout=120) as client:
            while not leave.wait(0.2):
                codes.append(client.post(f"{ray_fleet.url}/v1/chat/completions", json=body).status_code)

    threads = [threading.Thread(target=asks, args=(number, crowd)) for number in range(10)]
    threads.append(threading.Thread(target=asks, args=(10, everybody)))
    for thread in threads:
        thread.start()
    try:
        up = ray_fleet.wait_for_replicas("growing", 2, 120)
        crowd.set()
        down = ray_fleet.wait_for_replicas("growing", 1, 180)
    finally:
        crowd.set()
        everybody.set()
        for thread in threads:
            thread.join(120)
    print(f"two replicas after {up:.0f} s of load, one {down:.0f} s after it; {len(codes)} requests")
    assert set(codes) == {200}
    ray_fleet.serve(*models_of(rambler, talker, update="second"))


def ask(fleet: RayFleet, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{fleet.url}/v1/chat/completions", json=body, timeout=120)


def value(fleet: RayFleet, name: str, model: str) -> float:
    said = httpx.get(f"{fleet.url}/metrics", timeout=30).text
    found = re.search(rf'^{name}{{[^}}]*model="{model}"[^}}]*}} (\S+)$', said, re.MULTILINE)
    assert found is not None
    return float(found[1])
