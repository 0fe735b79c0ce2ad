"""Engines that are killed, and servers that are told to stop."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from support.live_server import ENDLESS, LiveServer, content, error_of, in_background, live_server, until
from support.talker import SAYS


def kill_while_running(server: LiveServer, answered: list[httpx.Response]) -> None:
    """Kill the engine that is at an answer, unless there is one already."""
    until(lambda: bool(answered) or server.metric("bmqwen_running") == 1)
    if not answered:
        restarts = server.metric("bmqwen_engine_restarts_total")
        os.kill(server.engines[0], signal.SIGKILL)
        until(lambda: server.metric("bmqwen_engine_restarts_total") == restarts + 1)


def test_a_killed_engine_is_started_again(chatterbox: Path, serve_folder: Path) -> None:
    with live_server(chatterbox, *ENDLESS, cache=serve_folder / "cache") as server:
        stream = server.stream("talk")
        next(stream)
        next(stream)
        (engine,) = server.engines
        later: list[httpx.Response] = []
        body = {"messages": [{"role": "user", "content": "wait"}], "max_tokens": 3}
        waiter = in_background(server, body, later)
        until(lambda: server.metric("bmqwen_queue_length") == 1)
        os.kill(engine, signal.SIGKILL)
        last = list(stream)[-1]
        assert last["error"]["code"] == "engine_lost"
        assert "try again" in last["error"]["message"]
        waiter.join(60)
        assert later[0].status_code == 200, later[0].text
        assert server.engines != [engine]
        assert server.metric("bmqwen_engine_restarts_total") == 1
        failed: list[httpx.Response] = []
        whole = {"messages": [{"role": "user", "content": "talk"}]}
        caller = in_background(server, whole, failed)
        kill_while_running(server, failed)
        # An answer that its engine had not begun was given to the next one, once.
        kill_while_running(server, failed)
        caller.join(60)
        assert failed[0].status_code == 503
        assert error_of(failed[0])["code"] == "engine_lost"
        until(lambda: server.client.get("/health").status_code == 200)
        assert server.zombies == []
        assert "engine 0 was killed (SIGKILL)" in server.log
        assert "engine 0 is ready again" in server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_stopping_lets_short_answers_finish(talker: Path, serve_folder: Path, number: signal.Signals) -> None:
    with live_server(talker, cache=serve_folder / "cache") as server:
        stream = server.stream("say it")
        first = [next(stream)]
        server.process.send_signal(number)
        rest = list(stream)
        assert content(first + rest) == SAYS
        assert rest[-1]["choices"][0]["finish_reason"] == "stop"
        assert server.process.wait(40) == 0
        assert "Traceback" not in server.log
        assert server.log.strip().endswith("stopped")


def test_stopping_tells_long_answers(chatterbox: Path, serve_folder: Path) -> None:
    options = (*ENDLESS, "--stop-seconds", "0.3")
    with live_server(chatterbox, *options, cache=serve_folder / "cache") as server:
        (engine,) = server.engines
        stream = server.stream("talk")
        next(stream)
        waiting: list[httpx.Response] = []
        body = {"messages": [{"role": "user", "content": "wait"}]}
        waiter = in_background(server, body, waiting)
        until(lambda: server.metric("bmqwen_queue_length") == 1)
        server.process.send_signal(signal.SIGTERM)
        last = list(stream)[-1]
        assert last["error"]["code"] == "not_ready"
        assert "shutting down" in last["error"]["message"]
        waiter.join(20)
        assert waiting[0].status_code == 503
        assert server.process.wait(40) == 0
        until(lambda: not Path(f"/proc/{engine}").exists())


def test_a_second_signal_does_not_wait(chatterbox: Path, serve_folder: Path) -> None:
    with live_server(chatterbox, *ENDLESS, cache=serve_folder / "cache") as server:
        stream = server.stream("talk")
        next(stream)
        server.process.send_signal(signal.SIGINT)
        until(lambda: server.client.get("/health").json()["status"] == "stopping")
        server.process.send_signal(signal.SIGINT)
        last = list(stream)[-1]
        assert "shutting down" in last["error"]["message"]
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log
        assert server.log.strip().endswith("stopped")


def test_engines_end_with_a_killed_server(talker: Path, serve_folder: Path) -> None:
    with live_server(talker, cache=serve_folder / "cache") as server:
        (engine,) = server.engines
        server.process.kill()
        server.process.wait(40)
        until(lambda: not Path(f"/proc/{engine}").exists())
