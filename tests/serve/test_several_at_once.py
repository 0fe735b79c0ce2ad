"""A server whose engine answers several requests at once."""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import cast

import httpx
import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.cli.app import run
from bmqwen.errors import InputError
from bmqwen.serve.pool.sequences import sequences_of
from support.checkpoints import tiny_config
from support.failing_server import FailingServer
from support.live_server import ENDLESS, Answer, LiveServer, live_server, until

QUESTIONS = [f"{'why ' * (7 * number + 1)}{number}?" for number in range(6)]


def ask_together(server: LiveServer, questions: list[str], **fields: object) -> list[Answer]:
    """Answers to all questions, asked at the same moment."""
    bodies: list[Answer] = [{} for _ in questions]

    def ask(number: int) -> None:
        body = {"messages": [{"role": "user", "content": questions[number]}], **fields}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        bodies[number] = answer.json() if answer.status_code == 200 else {"status": answer.status_code}

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return bodies


def test_answers_do_not_depend_on_who_else_is_served(thinker: Path, serve_folder: Path) -> None:
    """With --reproducible: sampled answers and their log-probabilities are the same together and alone."""
    options = ("--sequences", "4", "--reproducible", "--cache-mb", "0")
    sampling = {"max_tokens": 24, "seed": 7, "temperature": 1.0, "logprobs": True}
    with live_server(thinker, *options, cache=serve_folder / "cache") as server:
        assert "4 answers at once" in server.log
        together = ask_together(server, QUESTIONS, **sampling)
        # The cache does not matter either: it has been used for other questions in between.
        alone = [server.chat(question, **sampling) for question in QUESTIONS]
        for body, other in zip(together, alone, strict=True):
            assert body["choices"] == other["choices"]
        assert server.metric("bmqwen_running") == 0


def test_an_engine_that_dies_ends_each_of_its_answers(
    chatterbox: Path, serve_folder: Path, tmp_path: Path
) -> None:
    options = (*ENDLESS, "--sequences", "3")
    with FailingServer(
        chatterbox, *options, cache=serve_folder / "cache", fault=tmp_path / "fault"
    ) as server:
        streams = [server.stream(f"talk {number}") for number in range(3)]
        for stream in streams:
            next(stream)
            next(stream)
        assert server.metric("bmqwen_running") == 3
        # One that leaves does not disturb the others.
        cast(Generator[Answer, None, None], streams.pop()).close()
        until(lambda: server.metric("bmqwen_running") == 2)
        for stream in streams:
            assert next(stream)["choices"]
        server.fail("feed", "DeviceError")
        for stream in streams:
            assert list(stream)[-1]["error"]["code"] == "engine_lost"
        assert server.chat("talk", max_tokens=3)["usage"]["completion_tokens"] == 3


def test_more_sequences_than_memory_are_refused(
    chatterbox: Path, serve_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(serve_folder / "cache"))
    monkeypatch.setattr("bmqwen.serve.pool.sequences.available_memory", lambda: 1 << 20)
    assert run(["serve", str(chatterbox), "--port", "0", "--sequences", "64"]) == 2
    assert "choose fewer --sequences or a shorter --context" in capfd.readouterr().err


def test_a_bundle_for_a_chip_has_its_own_number() -> None:
    details = {"sequences": 2}
    bundle = Bundle(Path("two"), "bmodel", "tiny", tiny_config(), {}, details)
    assert sequences_of(bundle, None, None, 1) == sequences_of(bundle, 2, None, 1) == 1
    with pytest.raises(
        InputError, match="two was compiled for 2 conversations at once, not for 3: compile the model"
    ):
        sequences_of(bundle, 3, None, 1)
