"""The load test of the server: what it asks, what it takes for a fault, and a small one as a whole."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bmqwen.engine import Engine, load
from fresh_runs import FreshRuns
from server_load import TEXTS, Sample, answer_checks, memory_check
from support.checkpoints import tiny_config, write_checkpoint
from support.talker import write_talker
from traffic import MOST_TURNS, Asker, Exchange, Question, Said

TEXT = "All that the clients ask about. " * 100


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMQWEN_CACHE", str(folder / "cache"))
        model = write_checkpoint(folder / "tiny", tiny_config(max_position_embeddings=2048))
        with load(model, threads=1) as engine:
            yield engine


def conversation(asker: Asker) -> list[Question]:
    """What a client asks when every answer is "yes"."""
    asked = [asker.begin()]
    while (then := asker.next(Exchange(asked[-1].messages, 4, 200, "yes", "stop"))) is not None:
        asked.append(then)
    return asked


def exchange(engine: Engine, text: str, before: Exchange | None = None) -> Exchange:
    """A question with the right answer."""
    messages: Said = (("user", text),)
    if before is not None:
        messages = (*before.messages, ("assistant", before.answer or ""), *messages)
    run = FreshRuns(engine).answer(messages, 12)
    return Exchange(messages, 12, 200, run.text, run.finish_reason)


def test_clients_ask_the_same_for_the_same_seed() -> None:
    talks = [[conversation(Asker(1, number, TEXT)) for number in range(30)] for _ in range(2)]
    assert talks[0] == talks[1]
    assert talks[0][0] != talks[0][1]
    questions = [question for talk in talks[0] for question in talk]
    assert max(len(talk) for talk in talks[0]) == MOST_TURNS
    assert {question.stream for question in questions} == {True, False}
    assert any(question.patience_s is not None for question in questions)
    assert any(question.patience_pieces is not None for question in questions)
    lengths = [len(talk[0].messages[-1][1]) for talk in talks[0]]
    assert min(lengths) < 100 < 1000 < max(lengths)


def test_nobody_goes_on_after_a_failure() -> None:
    asker = Asker(1, 0, TEXT)
    assert asker.next(Exchange(asker.begin().messages, 4, 500, error="no")) is None


def test_right_answers_are_found_right(engine: Engine) -> None:
    first = exchange(engine, "hello")
    given = [first, exchange(engine, "and then?", first), Exchange((("user", "hm"),), 4, left=True)]
    found = FreshRuns(engine).compare(given)
    assert (found.compared, found.ties, found.wrong) == (2, 0, ())
    assert all(check.good for check in answer_checks(given, FreshRuns(engine)))


def test_turns_are_answered_one_after_the_other(engine: Engine) -> None:
    first = exchange(engine, "hello")
    second = exchange(engine, "and then?", first)
    runs = FreshRuns(engine)
    assert runs.compare([first, second]).wrong == ()
    again = runs.replayed(second.messages, 12)
    assert again.usage.cached_tokens > 0
    assert runs.answer(second.messages, 12).usage.cached_tokens == 0
    assert again.usage.prompt_tokens == runs.answer(second.messages, 12).usage.prompt_tokens


@pytest.mark.parametrize("fault", ["text", "end", "cut", "other"])
def test_wrong_answers_are_found_wrong(engine: Engine, fault: str) -> None:
    right = exchange(engine, "hello")
    assert right.answer
    other = exchange(engine, "something else").answer
    assert other != right.answer
    wrong = {
        "text": replace(right, answer="?" + right.answer),
        "end": replace(right, finish="cancelled"),
        "cut": replace(right, answer=right.answer[:-1]),
        "other": replace(right, answer=other),
    }[fault]
    assert FreshRuns(engine).compare([wrong]).wrong == (wrong,)
    assert not answer_checks([wrong], FreshRuns(engine))[1].good


def test_errors_count_and_leaving_does_not(engine: Engine) -> None:
    right = exchange(engine, "hello")
    left, lost = Exchange(right.messages, 4, left=True), Exchange(right.messages, 4, 500, error="no")
    assert answer_checks([right, left], FreshRuns(engine))[0].good
    failed = answer_checks([right, left, lost], FreshRuns(engine))[0]
    assert not failed.good
    assert failed.seen.startswith("1 of 3")
    assert "500" in failed.seen
    assert not answer_checks([left], FreshRuns(engine))[0].good


@pytest.mark.parametrize(("per_second", "good"), [(0, True), (1000, False)])
def test_memory_that_grows_after_the_warm_up(per_second: int, good: bool) -> None:
    warm = [Sample(second, 1000 * second, 2000) for second in range(60)]
    after = [Sample(second, 60_000 + (second - 60) * per_second, 2000) for second in range(60, 180)]
    assert memory_check([*warm, *after]).good is good


@pytest.mark.thorough
def test_a_small_load_as_a_whole(tmp_path: Path) -> None:
    model = write_talker(tmp_path / "chatterbox", endless=True, context=60_000)
    files = tmp_path / "table.md", tmp_path / "all.json"
    ended = subprocess.run(
        [
            *(sys.executable, TEXTS.with_name("server_load.py"), "--model", model, "--threads", "1"),
            *("--clients", "4", "--seconds", "1", "--starts", "1", "--new-tokens", "30"),
            *("--markdown", files[0], "--json", files[1]),
        ],
        env=os.environ | {"BMQWEN_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert ended.stdout == files[0].read_text()
    report = json.loads(files[1].read_text())
    # Times and memory of a tiny model mean nothing; its answers do.
    timed = ("growth", "first token", "tokens/s", "engine free")
    lasting = [check for check in report["checks"] if not check["name"].startswith(timed)]
    assert len(lasting) == 4
    assert [check for check in lasting if not check["good"]] == []
    assert ended.returncode == int(not all(check["good"] for check in report["checks"]))
    assert len(report["exchanges"]) > 8
    assert report["samples"]


def test_nonsense_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    from server_load import main

    assert main(["--clients", "0"]) == 2
    assert "--clients" in capfd.readouterr().err
