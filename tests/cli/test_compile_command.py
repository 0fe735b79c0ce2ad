"""`bmqwen compile`: what it refuses, without a compiler."""

from pathlib import Path

import pytest

from bmqwen.cli.app import run
from support.checkpoints import tiny_config, write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    return write_checkpoint(tmp_path / "model", tiny_config("qwen1.5"), seed=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seq-len", "63"], "--seq-len 63 cannot be compiled: choose a multiple of 8 from 32 to 256"),
        (["--seq-len", "64", "--group-size", "256"], "which the group size 256 does not divide"),
        (["--seq-len", "64", "--group-size", "7"], "group size 7 is not supported"),
        (["--seq-len", "64", "--layers", "3"], "model has 2 layers"),
        (["--quant", "f32"], "'f32' is not one of"),
        (["--lm-head", "f32"], "'f32' is not one of"),
        (["--jobs", "0"], "'--jobs'"),
    ],
)
def test_options_are_refused(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compile", str(model), "-o", str(tmp_path / "bundle"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir() if "bundle" in p.name and p.is_dir()) == []


def test_no_compiler_on_this_machine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["compile", str(model), "-o", str(tmp_path / "bundle"), "--seq-len", "64"]) == 1
    said = capsys.readouterr().err
    assert "needs cmake, make, gcc, g++" in said
    assert said.count("\n") == 1


def test_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", str(tmp_path / "nothing"), "-o", str(tmp_path / "bundle")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folder_that_is_no_bundle_is_left_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    arguments = ["compile", str(model), "-o", str(tmp_path / "mine"), "--seq-len", "64", "--force"]
    assert run(arguments) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert (tmp_path / "mine/file").read_text() == "x"
