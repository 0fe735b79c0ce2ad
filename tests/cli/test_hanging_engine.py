"""Ctrl-C in `bmqwen chat` when the engine hangs: the second one gets out, and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from support.processes import wait_for_end
from support.program import PROMPT, heed_ctrl_c

CTRL_C = "\x03"
PROGRAM = Path(__file__).parents[1] / "support/hanging_chat.py"
ENDS = {
    "worker": "bmqwen: interrupted",
    "stopped": "bmqwen: interrupted",
    "library": "the engine did not answer",
}


@pytest.fixture(
    params=["library", *(pytest.param(how, marks=pytest.mark.thorough) for how in ("stopped", "worker"))]
)
def how(request: pytest.FixtureRequest) -> str:
    """Where the engine hangs."""
    how: str = request.param
    return how


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    """Where the process that hangs says its id; it must be gone in the end."""
    file = tmp_path / "pid"
    yield file
    wait_for_end(int(file.read_text()))


def command(how: str, told: Path, talker: Path, *options: str) -> list[str]:
    return [str(PROGRAM), how, str(told), "chat", str(talker), *options]


def test_the_second_ctrl_c_ends_a_question(
    talker: Path, environment: dict[str, str], how: str, told: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, *command(how, told, talker, "-p", "hi")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=heed_ctrl_c,
    ) as process:
        _wait_for(told)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == b""
    assert errors.decode().strip().splitlines()[-1].endswith(ENDS[how])
    assert "Traceback" not in errors.decode()


def test_sigterm_ends_a_question(talker: Path, environment: dict[str, str], how: str, told: Path) -> None:
    with subprocess.Popen(
        [sys.executable, *command(how, told, talker, "-p", "hi")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        _wait_for(told)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.decode().strip().splitlines()[-1].startswith("bmqwen: terminated")
    assert "Traceback" not in errors.decode()


def test_the_second_ctrl_c_ends_a_conversation(
    talker: Path, environment: dict[str, str], how: str, told: Path
) -> None:
    child: Any = pexpect.spawn(
        sys.executable,
        command(how, told, talker),
        env=environment,
        encoding="utf-8",
        timeout=30,
        preexec_fn=heed_ctrl_c,
    )
    try:
        child.expect(PROMPT)
        child.send("hi\r")
        _wait_for(told)
        child.send(CTRL_C)
        time.sleep(0.1)
        child.send(CTRL_C)
        child.expect(ENDS[how])
        child.expect(pexpect.EOF)
        # The terminal is as it was: what is typed is shown.
        assert child.getecho()
    finally:
        child.close(force=True)
    assert child.exitstatus == 130


def _wait_for(told: Path) -> None:
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
