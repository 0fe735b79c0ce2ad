"""Tiny models through the real compiler."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import describe
from bmqwen.quant.precision import Format, Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

pytestmark = pytest.mark.simulator
# On a full disk a program is refused more bytes; a limit on the size of its files does the same to the compiler.
FILE_LIMIT = 400_000


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    """The real compiler."""
    return open_toolchain()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint whose matrices the compiler takes."""
    config = tiny_config("qwen1.5", hidden_size=128, intermediate_size=256)
    return write_checkpoint(tmp_path / "model", config, seed=3)


@pytest.fixture
def cache(tmp_path: Path, toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with the compiler that is there."""
    folder = tmp_path / "cache"
    (folder / "toolchain").mkdir(parents=True)
    monkeypatch.setenv("BMQWEN_CACHE", str(folder))
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(toolchain.root))
    return folder


def program(arguments: list[str], limit: int = 0) -> "subprocess.Popen[str]":
    """`bmqwen` in a process of its own."""
    code = (
        "import resource, sys; from bmqwen.cli.app import main;"
        f"limit = {limit};"
        "limit and resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "form", ["int4", *(pytest.param(form, marks=pytest.mark.thorough) for form in ("f16", "int8"))]
)
def test_compiled_twice_is_byte_for_byte_equal(
    form: Format, model: Path, toolchain: Toolchain, tmp_path: Path
) -> None:
    bundles = []
    for jobs in (1, 3):
        with open_checkpoint(model) as checkpoint:
            bundles.append(
                compile_model(
                    checkpoint,
                    tmp_path / f"{form}-{jobs}",
                    Precision.choose(form, 32),
                    seq_len=64,
                    sequences=1,
                    drafts=False,
                    toolchain=toolchain,
                    jobs=jobs,
                )
            )
        time.sleep(1.1)  # the compiler writes the second of the day
    first, second = bundles
    assert first.files == second.files
    nets = StepNets.from_dict(first.details, "bundle")
    assert set(nets.cycles) == {StepShape(*s) for s in ((64, 0), (32, 64), (32, 0), (8, 64), (1, 64))}
    assert 0 < nets.cycles[StepShape(1, 64)] < nets.cycles[StepShape(32, 64)]
    said = describe(toolchain, first.path("model.bmodel"))
    assert said.count("k_cache.1") == 5
    # K/V rows of two layers, 64 and the longest net's 32 more.
    assert first.details["device_bytes"] > 2 * 2 * 96 * 128 * 2


# By default with a stand-in: `test_after_a_kill_the_orphans_end_and_the_rest_is_compiled`.
@pytest.mark.thorough
def test_killed_in_the_middle_it_goes_on(model: Path, cache: Path, tmp_path: Path) -> None:
    arguments = [
        "compile",
        str(model),
        "-o",
        str(tmp_path / "bundle"),
        "--seq-len",
        "64",
        "--sequences",
        "1",
        "--no-drafts",
        "--group-size",
        "32",
    ]
    process = program([*arguments, "--jobs", "1"])
    deadline = time.monotonic() + 300
    while not list(cache.glob("compile/*/joined.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "bundle").exists()
    again = program(arguments)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "64 tokens with none cached: compiled by an earlier run (1 of 5)" in err
    assert "5 of 5" in err
    assert str(tmp_path / "bundle") in out
    assert [p.name for p in (cache / "compile").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_interrupted_it_says_how_to_go_on(
    how: signal.Signals, model: Path, cache: Path, tmp_path: Path
) -> None:
    process = program(["compile", str(model), "-o", str(tmp_path / "bundle"), "--seq-len", "64"])
    deadline = time.monotonic() + 300
    while not list(cache.glob("compile/*/*/compiler.log")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + how
    assert ": the same command goes on from there" in err
    assert "Traceback" not in err
    assert not (tmp_path / "bundle").exists()


def test_compiler_that_may_write_no_more(model: Path, cache: Path, tmp_path: Path) -> None:
    arguments = [
        "compile",
        str(model),
        "-o",
        str(tmp_path / "bundle"),
        "--seq-len",
        "64",
        "--sequences",
        "1",
        "--no-drafts",
        "--group-size",
        "32",
    ]
    process = program(arguments, limit=FILE_LIMIT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    # Which of the nets that are compiled side by side fails first is left to chance.
    assert any(f"(log: {log})" in err for log in cache.glob("compile/*/*/*.log")), err
    assert not (tmp_path / "bundle").exists()
