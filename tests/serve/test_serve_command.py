"""`bmqwen serve` and what it refuses."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bmqwen.cli.app import run
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.serve.http import server
from bmqwen.serve.pool.wire import EngineConfig
from bmqwen.util.progress import Silent
from support.bmodel_files import FakeBmodel, published_nets


def serve(model: Path, *options: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bmqwen", "serve", str(model), *options]
    environment = os.environ | {"BMQWEN_CACHE": str(cache)} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def assert_refused(error: str, *words: str) -> None:
    """One line, perhaps after lines of progress, that says what is wrong."""
    assert "Traceback" not in error
    for word in words:
        assert word in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "0.0.0.0"), ("0.0.0.0", "--api-key-file", "--insecure-no-key")),
        (("--host", "no.such.host.invalid"), ("no.such.host.invalid",)),
        (("--host", "192.0.2.1", "--insecure-no-key"), ("192.0.2.1", "--host")),
        (("--api-key", "short"), ("at least 8 characters",)),
        (("--api-key-file", "/nonexistent"), ("/nonexistent", "No such file")),
        (("--cors-origin", "example.org"), ("--cors-origin", "https://")),
        (("--device", "a,b"), ("--device", "several as in 0,1")),
        (("--device", "0,0"), ("twice",)),
        (("--device", "0,1", "--replicas", "2"), ("either --device or --replicas",)),
        (("--port", "70000"), ("--port",)),
        (("--temperature", "9"), ("temperature", "0 to 2")),
    ],
)
def test_one_sentence_and_exit_code_2(
    talker: Path, options: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(talker), "--port", "0", *options]) == 2
    assert_refused(capsys.readouterr().err, *words)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--device", "7"), 2, "no device 7"),
        pytest.param(("--device", "0,1"), 2, "no device 1", marks=pytest.mark.thorough),
        (("--context", "999999"), 2, "context length"),
        (("--engine", "tpu"), 2, "runs compiled models only"),
    ],
)
def test_engines_that_cannot_be_loaded(
    talker: Path, serve_folder: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = serve(talker, "--port", "0", *options, cache=serve_folder / "cache")
    assert done.returncode == code
    assert_refused(done.stderr, words)


@pytest.mark.parametrize("others", [(), ("another.bmodel",), ("config.json",)])
def test_engines_are_given_the_published_bmodel_that_was_named(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    served: list[EngineConfig] = []

    async def note(models: list[tuple[object, list[EngineConfig]]], *_: object, **__: object) -> None:
        served.extend(engine for _, engines in models for engine in engines)

    monkeypatch.setattr(server, "serve", note)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(talker / name, tmp_path / name)
    path = FakeBmodel(published_nets()).write(tmp_path / "qwen1.5-1.8b_int4_1dev.bmodel")
    for name in others:
        shutil.copy(path, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run(["serve", path.name, "--port", "0"]) == 0
    (engine,) = served
    assert resolve_bundle(engine.model, Precision(), progress=Silent()).bmodel == path


def test_a_port_that_is_taken(talker: Path, serve_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = serve(talker, "--port", str(taken.getsockname()[1]), cache=serve_folder / "cache")
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_key_from_the_environment_must_be_good_too(
    talker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BMQWEN_API_KEY", "not a key")
    assert run(["serve", str(talker), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert_refused(error, "without spaces")
    assert "not a key" not in error
