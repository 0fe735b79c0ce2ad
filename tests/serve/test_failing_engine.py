"""Whatever an engine dies of: its client is told, the others are answered, and a new engine takes its place."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bmqwen.quant.precision import Format
from bmqwen.runtime.child_process import descendants
from support.checkpoints import Kind
from support.compiled_models import CompiledModel
from support.failing_server import FailingServer
from support.live_server import ENDLESS, LiveServer, in_background, live_server, until
from support.processes import wait_for_end

QUESTION = {"messages": [{"role": "user", "content": "talk"}]}
SHORT = QUESTION | {"max_tokens": 3}


@pytest.fixture(scope="module")
def failing(
    chatterbox: Path, serve_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FailingServer]:
    """A server that waits eight seconds for an engine to load, and one for an answer to end."""
    with FailingServer(
        chatterbox,
        *ENDLESS,
        *("--hang-seconds", "1", "--load-seconds", "8"),
        cache=serve_folder / "cache",
        fault=tmp_path_factory.mktemp("fault") / "fault",
    ) as server:
        yield server
        assert server.zombies == []


def assert_recovers(server: LiveServer, fail: Callable[[], None]) -> str:
    """An answer that fails, one that waits meanwhile and one that comes later; returns what the first was told."""
    stream = server.stream("talk")
    next(stream)
    next(stream)
    (engine,) = server.engines
    later: list[httpx.Response] = []
    waiter = in_background(server, SHORT, later)
    until(lambda: server.metric("bmqwen_queue_length") == 1)
    restarts = server.metric("bmqwen_engine_restarts_total")
    fail()
    last = list(stream)[-1]
    assert last["error"]["code"] == "engine_lost", last
    assert "try again" in last["error"]["message"]
    waiter.join(60)
    assert later[0].status_code == 200, later[0].text
    assert server.engines != [engine]
    assert server.metric("bmqwen_engine_restarts_total") == restarts + 1
    assert server.post("/v1/chat/completions", SHORT).status_code == 200
    assert server.client.get("/health").json() == {"status": "ok", "engines": 1, "ready": 1, "problem": None}
    return str(last["error"]["message"])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("DeviceError", "engine 0 failed: the chip does not answer"),
        pytest.param(
            "MemoryError",
            "engine 0 failed: there is not enough memory for answering",
            marks=pytest.mark.thorough,
        ),
        ("RuntimeError", "engine 0 failed: answering failed: RuntimeError: of no kind that anybody expects"),
        pytest.param(
            "ValueError",
            "engine 0 failed: answering failed: ValueError: nor this one",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "RecursionError",
            "engine 0 failed: answering failed: RecursionError: ",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "SystemExit",
            "engine 0 ended unexpectedly (exit status 1)",
            marks=pytest.mark.thorough,
        ),
        ("exit", "engine 0 ended unexpectedly (exit status 7)"),
    ],
)
def test_an_engine_that_fails_while_it_answers(failing: FailingServer, how: str, reason: str) -> None:
    assert reason in assert_recovers(failing, lambda: failing.fail("feed", how))
    assert f"{reason}; starting it again" in failing.log
    assert "engine 0 is ready again" in failing.log
    # The status of a stream was sent before: its line in the log says what came of it.
    assert re.search(r"POST /v1/chat/completions 200 \d+\.\d+ s failed: engine_lost req-", failing.log)


def test_no_request_is_lost_with_an_engine_that_had_not_begun_it(failing: FailingServer) -> None:
    for _ in range(3):
        os.kill(failing.engines[0], signal.SIGKILL)
        assert failing.post("/v1/chat/completions", SHORT).status_code == 200


def test_an_engine_that_fails_while_it_is_loaded_again_and_again(failing: FailingServer) -> None:
    failing.fail("load", "exit", "always")
    os.kill(failing.engines[0], signal.SIGKILL)
    reason = "engine 0 ended unexpectedly (exit status 7)"
    until(lambda: failing.log.count(f"{reason}; starting it again in ") >= 2, 60)
    health = failing.client.get("/health")
    assert health.status_code == 503
    assert health.json() == {"status": "loading", "engines": 1, "ready": 0, "problem": reason}
    later: list[httpx.Response] = []
    waiter = in_background(failing, SHORT, later)
    failing.recover()
    waiter.join(60)
    assert later[0].status_code == 200, later[0].text
    assert failing.client.get("/health").json()["problem"] is None


@pytest.mark.parametrize(
    "how",
    [
        "RuntimeError",
        *(pytest.param(how, marks=pytest.mark.thorough) for how in ("DeviceError", "MemoryError", "hang")),
    ],
)
def test_an_engine_that_cannot_be_loaded_again_at_first(failing: FailingServer, how: str) -> None:
    failing.fail("load", how)
    hangs = failing.metric("bmqwen_engine_hangs_total")
    os.kill(failing.engines[0], signal.SIGKILL)
    until(lambda: failing.client.get("/health").status_code == 503)
    until(lambda: failing.client.get("/health").status_code == 200, 60)
    if how == "hang":
        assert "engine 0 was not loaded after 8 seconds and was killed" in failing.log
        assert failing.metric("bmqwen_engine_hangs_total") == hangs + 1
    assert failing.post("/v1/chat/completions", SHORT).status_code == 200


def test_an_engine_that_hangs_while_it_is_closed(
    chatterbox: Path, serve_folder: Path, tmp_path: Path
) -> None:
    with FailingServer(chatterbox, cache=serve_folder / "cache", fault=tmp_path / "fault") as server:
        server.fail("close", "hang")
        (engine,) = server.engines
        assert server.stop() == 0
        wait_for_end(engine)
        assert "engine 0 did not end when told to, and was killed" in server.log
        assert server.log.strip().endswith("stopped")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "engine 0 ended unexpectedly (exit status 7)"),
        pytest.param(
            "hang", "engine 0 was not loaded after 2 seconds and was killed", marks=pytest.mark.thorough
        ),
        ("DeviceError", "the chip does not answer"),
    ],
)
def test_a_server_whose_engine_never_was_ready_ends(
    chatterbox: Path, serve_folder: Path, tmp_path: Path, how: str, reason: str
) -> None:
    fault = tmp_path / "fault"
    seconds = "2" if how == "hang" else "100"
    server = FailingServer(chatterbox, "--load-seconds", seconds, cache=serve_folder / "cache", fault=fault)
    server.fail("load", how, "always")
    with pytest.raises(RuntimeError, match="did not start") as caught, server:
        pass
    said = str(caught.value)
    assert reason in said.splitlines()[-1]
    assert said.count("starting it again") == (0 if how == "DeviceError" else 2)


# Its parts are tested alone: `test_killed_simulator_is_a_sentence`, and an engine that fails with a DeviceError.
@pytest.mark.thorough
@pytest.mark.simulator
def test_a_simulator_that_is_killed_is_replaced(
    compiled: Callable[[Kind, Format, int], CompiledModel], serve_folder: Path
) -> None:
    bundle = compiled("qwen1.5", "int4", 8).bundle
    options = ("--engine", "sim", "--max-tokens", "60")
    with live_server(bundle.folder, *options, cache=serve_folder / "cache") as server:
        (worker,) = descendants(server.engines[0])
        reason = assert_recovers(server, lambda: os.kill(worker, signal.SIGKILL))
        assert "engine 0 failed: the simulator was killed (SIGKILL)" in reason
        assert reason.endswith("memory runs out)")
        (worker,) = descendants(server.engines[0])
    wait_for_end(worker)
