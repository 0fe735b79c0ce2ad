"""An engine as a replica of a fleet, without Ray and in this process: what it answers, and what it tells of itself."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bmqwen.cluster import engine_replica
from bmqwen.cluster.config import FleetModel
from bmqwen.cluster.engine_replica import EngineReplica
from bmqwen.cluster.prefixes import beginnings
from bmqwen.errors import BusyError, DeviceError, EngineLostError, InputError
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.serve.defaults import Limits
from bmqwen.serve.pool.job import Job
from bmqwen.serve.pool.replica import Replica
from bmqwen.serve.pool.scheduler import Scheduler
from bmqwen.serve.pool.wire import EngineFacts, EngineState, Message, decode, encode
from bmqwen.version import __version__
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

NODE = "10.0.0.7"
PROMPT = list(range(20))
LIMIT = 12


def session() -> Session:
    tokenizer = toy_tokenizer()
    return Session(ToyRuntime(tokenizer.vocab_size), tokenizer)


class ToyReplica(Replica):
    """An engine in this process. It answers one job, and hears nothing more while `paused` is set."""

    paused = False

    def open(self) -> None:
        self._session = session()
        facts = EngineFacts("toy", 4096, self._session.tokenizer.vocab_size)
        self.receive({"op": "ready", "facts": facts, "state": EngineState(memory_bytes=7)})

    def start(self, job: Job) -> None:
        super().start(job)
        self._answering = asyncio.create_task(self._answer(job))

    def cancel(self, job: Job) -> None:
        self.jobs.pop(job.number, None)

    async def _answer(self, job: Job) -> None:
        self._hear({"op": "start", "id": job.number})
        pieces = self._session.generate(job.prompt, job.params, owner=job.owner)
        while True:
            while self.paused:
                await asyncio.sleep(0.01)
            try:
                self._hear({"op": "piece", "id": job.number, "piece": next(pieces)})
            except StopIteration as end:
                done: Message = {"op": "done", "id": job.number, "usable": True, "completion": end.value}
                self._hear({**done, "state": EngineState(conversations=1)})
                return
            await asyncio.sleep(0)

    def _hear(self, message: Message) -> None:
        self.receive(decode(encode(message)))


class AwaitedReplica(EngineReplica):
    """Ray awaits its beginning and its end; Python would only call them."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


def run(
    test: Callable[[EngineReplica], Awaitable[None]],
    talker: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str = __version__,
    **model: Any,
) -> None:
    """Run a test's body with a loaded replica."""
    monkeypatch.setattr(engine_replica, "Scheduler", partial(Scheduler, make=ToyReplica))
    text = FleetModel(model=str(talker), quant="f32", **model).model_dump_json()

    async def body() -> None:
        replica = AwaitedReplica.__new__(AwaitedReplica)
        try:
            await EngineReplica.__init__(replica, text, version, 60.0, lambda: NODE)
            await test(replica)
        finally:
            await EngineReplica.__del__(replica)

    asyncio.run(body())


def asked(prompt: list[int]) -> bytes:
    params = SamplingParams(max_tokens=LIMIT)
    return encode({"op": "generate", "prompt": prompt, "params": params, "owner": "me", "client": ("me", "")})


def model_of(replica: EngineReplica) -> str:
    return str(replica.record_replica_metadata()["model"])


async def answer(replica: EngineReplica, prompt: list[int]) -> list[Message]:
    lines = replica.generate(asked(prompt), chain=[], model=model_of(replica))
    return [decode(line) async for data in lines for line in data.splitlines()]


def test_it_answers_as_its_engine_does(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, whole = drain(session().generate(PROMPT, SamplingParams(max_tokens=LIMIT)))

    async def test(replica: EngineReplica) -> None:
        messages = await answer(replica, PROMPT)
        assert [message["op"] for message in messages] == ["start", *["piece"] * len(expected), "done"]
        assert [message["piece"] for message in messages[1:-1]] == expected
        # Its text was in the pieces.
        assert messages[-1]["completion"].token_ids == whole.token_ids
        assert messages[-1]["completion"].text == ""
        told = replica.record_routing_stats()
        assert told["node"] == NODE
        assert told["state"] == "ready"
        assert told["load"] == 0
        assert told["memory"]["conversations"] == 1
        assert told["beginnings"] == beginnings("me", [*PROMPT, *whole.token_ids])[-1:]
        card = await replica.describe(model=model_of(replica))
        assert (card.name, card.precision, card.facts.name) == ("talker", "f32, lm_head f32", "toy")
        served = card.model("small", card.defaults, Limits())
        assert served.tokenizer.decode(served.tokenizer.encode("hello")) == "hello"

    run(test, talker, monkeypatch)


def test_it_refuses_in_messages_what_waits_too_long(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyReplica, "paused", True)

    async def test(replica: EngineReplica) -> None:
        first = asyncio.create_task(answer(replica, PROMPT))
        while not replica.record_routing_stats()["load"]:
            await asyncio.sleep(0)
        [refused] = await answer(replica, PROMPT)
        error = refused["fault"].error()
        assert isinstance(error, BusyError)
        assert error.retry_after >= 1
        monkeypatch.setattr(ToyReplica, "paused", False)
        assert (await first)[-1]["op"] == "done"

    run(test, talker, monkeypatch, queue=0)


def test_it_says_that_an_answer_is_under_way(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyReplica, "paused", True)
    monkeypatch.setattr(engine_replica, "BEAT_SECONDS", 0.02)

    async def test(replica: EngineReplica) -> None:
        lines = replica.generate(asked(PROMPT), chain=[], model=model_of(replica))
        assert decode(await anext(lines))["op"] == "start"
        assert [await anext(lines), await anext(lines)] == [b"", b""]
        monkeypatch.setattr(ToyReplica, "paused", False)
        rest = [decode(line) async for data in lines for line in data.splitlines()]
        assert rest[-1]["op"] == "done"
        assert len(rest) > 2

    run(test, talker, monkeypatch)


def test_who_leaves_makes_room(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(replica: EngineReplica) -> None:
        async with aclosing(replica.generate(asked(PROMPT), chain=[], model=model_of(replica))) as lines:
            await anext(lines)
            assert replica.record_routing_stats()["load"] == 1
        assert replica.record_routing_stats()["load"] == 0

    run(test, talker, monkeypatch)


def test_after_an_update_another_one_is_asked(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(replica: EngineReplica) -> None:
        with pytest.raises(EngineLostError):
            await anext(replica.generate(asked(PROMPT), chain=[], model="another"))

    run(test, talker, monkeypatch)


def test_an_engine_that_does_not_come_back(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(replica: EngineReplica) -> None:
        await replica.check_health()
        engine = replica._scheduler.replicas[0]
        engine.state, engine.problem = "failed", "engine 0 was killed"
        await replica.check_health()
        monkeypatch.setattr(engine_replica, "PATIENCE_SECONDS", -1000.0)
        with pytest.raises(DeviceError, match=rf"on {NODE} does not come back: engine 0 was killed"):
            await replica.check_health()

    run(test, talker, monkeypatch)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"version": "0.0.9"},
            InputError,
            f"node {NODE} has bmqwen {__version__}, but the fleet was started with 0.0.9",
        ),
        ({"chip": "bm1684x"}, DeviceError, "this node has no working chip"),
        (
            {"chip": "bm1684x", "chips": 2},
            InputError,
            "talker was compiled for 1 chip, but each of its replicas is to have 2: give it chips: 1, or a bundle",
        ),
    ],
)
def test_nodes_that_cannot_run_it(
    change: dict[str, Any], kind: type[Exception], words: str, talker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(replica: EngineReplica) -> None:
        raise AssertionError(replica)

    with pytest.raises(kind) as caught:
        run(test, talker, monkeypatch, **change)
    assert str(caught.value).startswith(words)
