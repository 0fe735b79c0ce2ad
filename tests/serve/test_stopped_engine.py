"""Engines that hang: their process lives, and does nothing any more."""

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
from support.live_server import ENDLESS, LiveServer, error_of, in_background, live_server, until
from support.processes import wait_for_end

QUESTION = {"messages": [{"role": "user", "content": "talk"}]}
SHORT = QUESTION | {"max_tokens": 3}
KILLED = "engine 0 was to end an answer, gave no sign of life for 1 seconds and was killed; starting it again"


@pytest.fixture
def options() -> list[str]:
    """More options of the server."""
    return []


@pytest.fixture
def impatient(chatterbox: Path, serve_folder: Path, options: list[str]) -> Iterator[LiveServer]:
    """Waits a second for an engine that is to end an answer."""
    options = [*ENDLESS, "--hang-seconds", "1", "--stop-seconds", "0.3", *options]
    with live_server(chatterbox, *options, cache=serve_folder / "cache") as server:
        yield server
        assert server.zombies == []
        assert "Traceback" not in server.log


def test_an_engine_that_hangs_when_its_client_left_is_replaced(impatient: LiveServer) -> None:
    stream = impatient.stream("talk")
    next(stream)
    next(stream)
    (engine,) = impatient.engines
    os.kill(engine, signal.SIGSTOP)
    later: list[httpx.Response] = []
    waiter = in_background(impatient, SHORT, later)
    until(lambda: impatient.metric("bmqwen_queue_length") == 1)
    stream.close()  # type: ignore[attr-defined]
    waiter.join(60)
    assert later[0].status_code == 200, later[0].text
    assert impatient.engines != [engine]
    assert not Path(f"/proc/{engine}").exists()
    assert impatient.metric("bmqwen_engine_hangs_total") == 1
    assert impatient.metric("bmqwen_engine_restarts_total") == 1
    assert impatient.log.count(KILLED) == 1
    assert "engine 0 is ready again" in impatient.log


@pytest.mark.parametrize("options", [["--time-limit", "2"]])
def test_an_answer_whose_time_is_up_on_a_hanging_engine_ends_in_an_error(impatient: LiveServer) -> None:
    stream = impatient.stream("talk")
    next(stream)
    next(stream)
    os.kill(impatient.engines[0], signal.SIGSTOP)
    last = list(stream)[-1]
    assert last["error"]["code"] == "engine_hung"
    assert last["error"]["type"] == "server_error"
    assert "try again" in last["error"]["message"]
    assert impatient.metric('bmqwen_failed_answers_total{code="engine_hung"}') == 1
    until(lambda: impatient.client.get("/health").status_code == 200)
    # So is one that had not begun: its prompt is not at fault.
    os.kill(impatient.engines[0], signal.SIGSTOP)
    refused = impatient.post("/v1/chat/completions", QUESTION)
    assert refused.status_code == 504
    assert error_of(refused)["code"] == "engine_hung"
    until(lambda: impatient.metric("bmqwen_engine_hangs_total") == 2)
    until(lambda: impatient.client.get("/health").status_code == 200)
    assert impatient.post("/v1/chat/completions", SHORT).status_code == 200


@pytest.mark.parametrize("options", [["--time-limit", "5"]])
def test_an_answer_that_had_begun_gets_status_504(impatient: LiveServer) -> None:
    answers: list[httpx.Response] = []
    caller = in_background(impatient, QUESTION, answers)
    until(lambda: impatient.metric("bmqwen_running") == 1)
    (engine,) = impatient.engines
    before = _computed(engine)
    until(lambda: _computed(engine) > before + 0.2)  # tens of tokens
    os.kill(engine, signal.SIGSTOP)
    caller.join(60)
    assert answers[0].status_code == 504
    assert error_of(answers[0])["code"] == "engine_hung"


def test_an_engine_that_was_only_slow_is_kept(chatterbox: Path, serve_folder: Path) -> None:
    options = (*ENDLESS, "--hang-seconds", "60")
    with live_server(chatterbox, *options, cache=serve_folder / "cache") as server:
        stream = server.stream("talk")
        next(stream)
        (engine,) = server.engines
        os.kill(engine, signal.SIGSTOP)
        stream.close()  # type: ignore[attr-defined]
        until(lambda: server.metric("bmqwen_cancelled_answers_total") == 1)
        assert server.metric("bmqwen_running") == 1
        os.kill(engine, signal.SIGCONT)
        until(lambda: server.metric("bmqwen_running") == 0)
        assert server.post("/v1/chat/completions", SHORT).status_code == 200
        assert server.engines == [engine]
        assert server.metric("bmqwen_engine_hangs_total") == 0


@pytest.mark.parametrize(
    ("number", "asked"),
    [(signal.SIGTERM, True), pytest.param(signal.SIGINT, False, marks=pytest.mark.thorough)],
)
def test_a_server_stops_with_a_hanging_engine(
    chatterbox: Path, serve_folder: Path, number: signal.Signals, asked: bool
) -> None:
    # Nobody waits for the answer of a client that left: the long time to stop is not used up.
    seconds = "0.3" if asked else "100000"
    options = (*ENDLESS, "--stop-seconds", seconds)
    with live_server(chatterbox, *options, cache=serve_folder / "cache") as server:
        stream = server.stream("talk")
        next(stream)
        (engine,) = server.engines
        os.kill(engine, signal.SIGSTOP)
        if not asked:
            stream.close()  # type: ignore[attr-defined]
            until(lambda: server.metric("bmqwen_cancelled_answers_total") == 1)
        server.process.send_signal(number)
        if asked:
            assert re.search("shutting down", list(stream)[-1]["error"]["message"])
        # Three seconds for connections, five for the engine to end by itself, two to kill it, and some to compute in.
        assert server.process.wait(20) == 0
        assert not Path(f"/proc/{engine}").exists()
        assert server.log.strip().endswith("stopped")
        assert "Traceback" not in server.log


def _computed(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.simulator
def test_a_simulator_that_hangs_is_replaced(
    compiled: Callable[[Kind, Format, int], CompiledModel], serve_folder: Path
) -> None:
    bundle = compiled("qwen1.5", "int4", 8).bundle
    # Its launches take a fraction of a second, and on a busy machine not many.
    options = ("--engine", "sim", "--hang-seconds", "6", "--max-tokens", "60")
    with live_server(bundle.folder, *options, cache=serve_folder / "cache") as server:
        stream = server.stream("talk")
        next(stream)
        next(stream)
        (engine,) = server.engines
        (worker,) = descendants(engine)
        os.kill(worker, signal.SIGSTOP)
        stream.close()  # type: ignore[attr-defined]
        until(lambda: server.metric("bmqwen_engine_hangs_total") == 1, 60)
        wait_for_end(engine)
        wait_for_end(worker)
        until(lambda: server.client.get("/health").status_code == 200, 120)
        assert server.post("/v1/chat/completions", SHORT).status_code == 200
        (worker,) = descendants(server.engines[0])
        os.kill(worker, signal.SIGSTOP)
        assert server.stop() == 0
    wait_for_end(worker)
