"""`bmqwen evaluate` as a user runs it: results, JSON, one line for every mistake, Ctrl-C and kill."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.checkpoints import tiny_config, write_checkpoint
from support.program import Run, assert_refused, document, heed_ctrl_c

SENTENCE = "hello you and the system, 你好。 "
QUESTIONS = "id,question,A,B,C,D,answer\n0,hello?,1,2,3,4,A\n1,you?,1,2,3,4,B\n"


@pytest.fixture(scope="session")
def tiny(cli_folder: Path) -> Path:
    return write_checkpoint(cli_folder / "tiny", tiny_config("qwen2.5", max_position_embeddings=1024), seed=3)


@pytest.fixture(name="text")
def text_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 12, encoding="utf-8")
    return path


def test_the_figures_for_people(bmqwen: Run, tiny: Path, text: Path) -> None:
    done = bmqwen("evaluate", tiny, "--text", text, "--quant", "int8", "--threads", "1")
    assert done.returncode == 0, done.stderr
    for words in (
        "int8, lm_head int8 beside tiny in float32",
        "grid in float32",
        "perplexity",
        "KL to the float",
    ):
        assert words in done.stdout
    assert re.search(r"takes about \S+ [MG]B of memory", done.stderr)
    # Said before anything is converted.
    first, _, _ = done.stderr.partition("evaluating on")
    assert re.search(r"reading about \d+ tokens with 2 models will take about \d+ s on this machine", first)


def test_json_is_one_document_for_all_files(bmqwen: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    paper = tmp_path / "law_val.csv"
    paper.write_text(QUESTIONS, encoding="utf-8")
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 3, encoding="utf-8")
    content = document(
        bmqwen(
            *("evaluate", tiny, "--text", text, "--text", other, "--choices", paper, "--json"),
            *("--quant", "int4", "--group-size", "64", "--lm-head", "f16", "--threads", "1"),
            *("--context-window", "64", "--stride", "64", "--limit", "100", "--recipe", "int8"),
        )
    )
    assert content["precision"] == {"weights": "int4", "group_size": 64, "lm_head": "f16"}
    assert content["arithmetic"] == "float"
    assert content["float_model"] == content["model"] == "tiny"
    first, second = content["texts"]
    assert (first["tokens"], first["scored"], first["window"], first["stride"]) == (100, 98, 64, 64)
    assert second["tokens"] < 100
    assert first["perplexity"] > 1
    both = content["together"]
    assert both["scored"] == first["scored"] + second["scored"]
    weighted = [score["mean_kl"] * score["scored"] for score in (first, second)]
    assert both["mean_kl"] == pytest.approx(sum(weighted) / both["scored"])
    assert both["blocks"] == 3  # two windows of the first text, one of the second
    assert 0 < first["mean_kl"] < first["p99_kl"]
    (better,) = content["recipes"]
    assert better["precision"] == {"weights": "int8", "group_size": 64, "lm_head": "int8"}
    assert better["texts"][0]["mean_kl"] < first["mean_kl"]
    (choices,) = content["choices"]
    assert (choices["subject"], choices["questions"]) == ("law", 2)
    assert choices["accuracy"] in (0, 0.5, 1)


def test_alone_there_is_no_float_model(bmqwen: Run, tiny: Path, text: Path) -> None:
    content = document(bmqwen("evaluate", tiny, "--text", text, "--alone", "--json", "--arithmetic", "int8"))
    assert content["float_model"] is None
    assert content["arithmetic"] == "int8"
    assert "mean_kl" not in content["texts"][0]


def test_every_mistake_is_one_line(bmqwen_here: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    empty, binary, short, table = (tmp_path / name for name in ("empty", "binary", "short", "table.csv"))
    empty.touch()
    binary.write_bytes(bytes(range(256)))
    short.write_text("a")
    table.write_text("question,answer\nwhy,A\n")
    assert_refused(
        bmqwen_here("evaluate", tiny, "--text", short, "--recipe", "int5"), "--recipe int5 is neither"
    )
    for path, words in (
        (tmp_path / "missing", "cannot be read"),
        (tmp_path, "cannot be read"),
        (empty, "is empty"),
        (binary, "not UTF-8 text"),
    ):
        assert_refused(bmqwen_here("evaluate", tiny, "--text", path), str(path), words)
    assert_refused(bmqwen_here("evaluate", tiny, "--choices", table), "lacks the column A")
    table.write_text(QUESTIONS)
    assert_refused(bmqwen_here("evaluate", tiny, "--choices", table, "--dev", tmp_path), "table_dev.csv")
    assert_refused(bmqwen_here("evaluate", tmp_path / "nowhere/x", "--text", text), "nowhere")
    done = bmqwen_here("evaluate", tiny, "--text", short, "--alone", "--quant", "f32", "--json")
    assert done.returncode == 2
    assert "has 1 token," in done.stderr.splitlines()[-1]
    assert done.stdout == ""


@pytest.mark.parametrize(
    "way", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough), signal.SIGKILL]
)
def test_whatever_ends_it_nothing_is_left_behind(
    way: signal.Signals, environment: dict[str, str], bmqwen: Run, tiny: Path, text: Path, cli_folder: Path
) -> None:
    scratch = cli_folder / "cache" / "evaluate"
    text.write_text(SENTENCE * 3000, encoding="utf-8")
    command = [sys.executable, "-m", "bmqwen", "evaluate", str(tiny), "--text", str(text), "--stride", "1"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=heed_ctrl_c,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("tiny, int4")
        assert list(scratch.iterdir())
        time.sleep(0.5)
        process.send_signal(way)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in errors
    if way == signal.SIGKILL:  # what it could not remove, the next run does
        assert list(scratch.iterdir())
        assert bmqwen("evaluate", tiny, "--text", text, "--limit", "9", "--alone").returncode == 0
    else:
        assert process.returncode == 128 + way
        words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[way]
        assert errors.splitlines()[-1] == f"bmqwen: {words}"
    assert not list(scratch.iterdir())
