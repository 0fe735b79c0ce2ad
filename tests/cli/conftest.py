"""The program as a user runs it: a process of its own, on models that say a known text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bmqwen.cli import app as program
from support.program import Run


@pytest.fixture(scope="session")
def cli_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache, home and models of these tests: conversions are made once."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def environment(cli_folder: Path, tmp_path: Path) -> dict[str, str]:
    """A user with an empty home and a plain terminal."""
    return os.environ | {
        "BMQWEN_CACHE": str(cli_folder / "cache"),
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TERM": "xterm",
        "COLUMNS": "100",
        "PYTHONUNBUFFERED": "",
    }


@pytest.fixture
def bmqwen(environment: dict[str, str]) -> Run:
    """Runs `python -m bmqwen` with arguments, text or bytes for stdin, and further variables."""

    def run(
        *arguments: str | Path, stdin: str | bytes = b"", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        command = [sys.executable, "-m", "bmqwen", *map(str, arguments)]
        done = subprocess.run(
            command, input=data, capture_output=True, env=environment | variables, timeout=120
        )
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.fixture
def bmqwen_here(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command in this process, where what matters is what it says: starting Python takes longer."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = program.run([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return here


@pytest.fixture
def say(bmqwen: Run, talker: Path) -> Run:
    """Runs a script of lines through `bmqwen chat` on the talker."""

    def run(*lines: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return bmqwen("chat", talker, "--threads", "1", *options, stdin="\n".join(lines) + "\n")

    return run
