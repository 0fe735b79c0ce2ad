"""`bmqwen chat` with one question: what reaches stdout, stderr and the exit code."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bmqwen.artifact.bundle import read_bundle
from support.program import Run, assert_refused, document, heed_ctrl_c
from support.talker import ANSWERS, REPEATS, SAYS, THINKS, write_thinker


def test_the_answer_goes_to_stdout_and_its_cost_to_stderr(bmqwen: Run, talker: Path) -> None:
    done = bmqwen("chat", talker, "--threads", "1", "-p", "hi")
    assert done.returncode == 0
    assert done.stdout == SAYS + "\n"
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"[\d.]+ m?s to first token · [\d.]+ tokens/s · 30 prompt tokens · \d+ out", last)
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_one_document(bmqwen: Run, talker: Path) -> None:
    done = bmqwen("chat", talker, "--threads", "1", "-p", "hi", "--json", "--max-tokens", "3")
    content = document(done)
    assert content["text"] == SAYS[: len("hello you and")]
    assert content["finish_reason"] == "length"
    assert content["usage"]["prompt_tokens"] == 30
    assert content["usage"]["cached_tokens"] == 0
    assert content["usage"]["completion_tokens"] == 3
    assert content["usage"]["first_token_s"] > 0
    assert content["usage"]["tokens_per_s"] > 0
    assert "ONNX Runtime" in content["engine"]
    assert content["model"] == "talker"


def test_an_answer_cut_off_is_said(bmqwen: Run, talker: Path) -> None:
    done = bmqwen("chat", talker, "-p", "hi", "--max-tokens", "2")
    assert done.stdout == "hello you\n"
    assert "cut off: max_tokens is 2" in done.stderr
    full = bmqwen("chat", talker, "-p", "hi", "--context", "33")
    assert full.stdout == "hello you and\n"
    assert "cut off: the context is full" in full.stderr


@pytest.mark.parametrize("option", [(), ("-p", "-")])
def test_piped_text_is_one_question(bmqwen: Run, talker: Path, option: tuple[str, ...]) -> None:
    done = bmqwen("chat", talker, "--json", *option, stdin="line one\r\nline two / three\n\n")
    assert document(done)["text"] == SAYS
    typed = bmqwen("chat", talker, "--json", "-p", "line one\nline two / three")
    assert document(done)["usage"]["prompt_tokens"] == document(typed)["usage"]["prompt_tokens"]


def test_chinese_does_not_depend_on_the_locale(bmqwen: Run, talker: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = bmqwen("chat", talker, "-p", "你好🎉", "--system", "。", **plain)
    assert (done.returncode, done.stdout) == (0, SAYS + "\n")
    piped = bmqwen("chat", talker, stdin="你好\n/show\n", **plain)
    assert (piped.returncode, piped.stdout) == (0, f"{SAYS}\n[1] 你好\n\n{SAYS}\n")


def test_ctrl_c_stops_and_keeps_what_was_shown(chatterbox: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bmqwen", "chat", str(chatterbox), "-p", "hi"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stdout is not None
        start = os.read(process.stdout.fileno(), 30).decode()
        assert start  # it streams: the whole answer takes far longer
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    text = start + rest.decode()
    assert text.endswith("\n")
    assert 5 <= len(text) < 60_000
    assert ("hello" + 30_000 * REPEATS).startswith(text[:-1])
    assert "stopped" in errors.decode()
    assert "Traceback" not in errors.decode()


def test_ctrl_c_with_json_prints_the_document(chatterbox: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bmqwen", "chat", str(chatterbox), "-p", "hi " * 50, "--json"]
    # The progress line tells when the model has begun to read, so stderr is a terminal.
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment, preexec_fn=heed_ctrl_c
    ) as process:
        seen = b""
        while b"reading" not in seen:
            seen += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 130
    assert json.loads(output)["finish_reason"] == "cancelled"
    assert re.search(rb"reading 1\d\d tokens: 0%", seen)


def test_a_reader_that_leaves_ends_it_quietly(chatterbox: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bmqwen", "chat", str(chatterbox), "-p", "hi"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        errors = process.stderr.read().decode()
        process.wait(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


@pytest.mark.parametrize(
    "command",
    [
        ("chat", "-p", "hi"),
        ("info",),
        ("--help",),
        *(pytest.param((name,), marks=pytest.mark.thorough) for name in ("list", "--version")),
    ],
)
def test_a_full_disk_is_said(command: tuple[str, ...], talker: Path, environment: dict[str, str]) -> None:
    model = [str(talker)] if command[0] in ("chat", "info") else []
    call = [sys.executable, "-m", "bmqwen", *command, *model]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60)
    assert done.returncode == 1
    assert (
        done.stderr.decode().splitlines()[-1]
        == "bmqwen: the output cannot be written: No space left on device"
    )


def test_closed_streams_are_no_error(talker: Path, environment: dict[str, str], tmp_path: Path) -> None:
    export = f"{sys.executable} -m bmqwen export {talker} -o {tmp_path / 'bundle'}"
    done = subprocess.run(["bash", "-c", f"{export} 0<&- 1>&- 2>&-"], env=environment, timeout=60)
    assert done.returncode == 0
    read_bundle(tmp_path / "bundle").verify_files()
    chat = f"{sys.executable} -m bmqwen chat {talker} -p hi"
    closed = subprocess.run(
        ["bash", "-c", f"{chat} 1>&-"], env=environment, timeout=60, capture_output=True, text=True
    )
    assert closed.returncode == 0
    assert "Traceback" not in closed.stderr
    assert "tokens/s" in closed.stderr


def test_a_variable_that_is_no_switch(bmqwen: Run) -> None:
    done = bmqwen("list", BMQWEN_OFFLINE="maybe")
    assert done.returncode == 0
    assert_refused(bmqwen("chat", "-p", "hi", BMQWEN_OFFLINE="maybe"), "BMQWEN_OFFLINE", "it must be 1 or 0")


def test_bad_input_is_one_line_before_anything_is_loaded(
    bmqwen: Run, bmqwen_here: Run, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    assert_refused(bmqwen_here("chat", missing, "-p", ""), "the prompt is empty")
    assert_refused(bmqwen_here("chat", missing, "-p", " \n"), "the prompt is empty")
    assert_refused(bmqwen("chat", missing), "the prompt is empty")
    assert_refused(bmqwen("chat", missing, stdin=b"a\n\xc4\xe3"), "not UTF-8", "line 2", "byte 3", "iconv")
    assert_refused(bmqwen_here("chat", missing, "-p", "hi"), str(missing))
    assert_refused(bmqwen_here("chat", missing, "-p", "hi", "--temperature", "9"), "temperature", "9.0")
    assert_refused(bmqwen("chat", missing, "--json", stdin="/help\n"), "--json")


def test_an_unknown_engine_names_those_there_are(bmqwen: Run, talker: Path) -> None:
    done = bmqwen("chat", talker, "-p", "hi", "--engine", "gpu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "gpu" in done.stderr
    assert "tpu:bmrt' (`bmqwen chat --help`" in done.stderr
    assert "sim" in done.stderr


def test_an_engine_that_cannot_run_a_checkpoint_is_wrong_usage(bmqwen: Run, talker: Path) -> None:
    assert_refused(bmqwen("chat", talker, "-p", "hi", "--engine", "sim"), "engine sim", "bmqwen compile")


@pytest.mark.parametrize(
    "model", [(), pytest.param(("qwen1.5-0.5b-chat",), marks=pytest.mark.thorough), ("someone/some-model",)]
)
def test_what_cannot_be_run_here_is_not_downloaded(
    bmqwen: Run, environment: dict[str, str], tmp_path: Path, model: tuple[str, ...]
) -> None:
    # Where it is not in the cache, a look at a hub would be told as "offline".
    refused = bmqwen("chat", *model, "-p", "hi", "--offline", "--engine", "tpu", BMQWEN_CACHE=str(tmp_path))
    assert_refused(refused, "engine tpu", "`bmqwen compile` it")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    bare = bmqwen("chat", *model, "-p", "hi", "--offline", BMQWEN_CACHE=str(tmp_path), PYTHONPATH=path)
    assert_refused(bare, "needs onnxruntime", "pip install", "[cpu]", code=1)


def test_a_prompt_that_cannot_fit_is_refused_with_the_numbers(bmqwen: Run, talker: Path) -> None:
    bmqwen("chat", talker, "-p", "hi")  # converted, so that no progress is on stderr
    done = bmqwen("chat", talker, stdin="a" * 100_000)
    assert_refused(done, "100,028 tokens", "only 511 fit")


def test_a_saved_conversation_goes_on(bmqwen: Run, say: Run, talker: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    assert say("/system be brief", "hi", f"/save {saved}").returncode == 0
    done = bmqwen("chat", talker, "--load", saved, stdin="hi\n/show\n")
    assert done.stdout == f"{SAYS}\nsystem: be brief\n\n[1] hi\n\n{SAYS}\n\n[2] hi\n\n{SAYS}\n"
    other = bmqwen("chat", talker, "--load", saved, "--system", "be long", stdin="/system\n")
    assert other.stdout == "be long\n"
    assert_refused(
        bmqwen("chat", talker, "--load", tmp_path / "no.json", "-p", "hi"), "no.json does not exist"
    )


def test_thoughts_go_to_stderr_and_into_the_document(bmqwen: Run, tmp_path: Path) -> None:
    model = str(write_thinker(tmp_path / "model"))
    told = bmqwen("chat", model, "-p", "word", "--temperature", "0", "--json")
    answer = json.loads(told.stdout)
    assert (answer["thoughts"], answer["text"]) == (THINKS.strip(), ANSWERS)
    assert answer["usage"]["reasoning_tokens"] > 0
    shown = bmqwen("chat", model, "-p", "word", "--temperature", "0")
    assert shown.stdout == ANSWERS + "\n"
    assert THINKS.strip() in shown.stderr
    off = bmqwen(
        "chat", model, "-p", "word", "--temperature", "0", "--no-enable-thinking", "--max-tokens", "3"
    )
    assert THINKS.strip() not in off.stderr
