"""`bmqwen quantize`, as it is called, and what the other commands say of its result."""

import json
from pathlib import Path

import pytest

from bmqwen.artifact.bundle import read_bundle
from bmqwen.quant.precision import Precision, PrecisionOptions, rounding_of
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint
from support.program import Run, assert_refused


@pytest.fixture(scope="module", name="tiny")
def tiny_fixture(cli_folder: Path) -> Path:
    return write_checkpoint(cli_folder / "tiny-float", tiny_config("qwen2.5"), seed=3)


def test_a_model_is_quantised_and_taken_as_it_is(bmqwen: Run, tiny: Path, tmp_path: Path) -> None:
    text, folder = tmp_path / "own.txt", tmp_path / "made"
    text.write_text("hello you and the system, 你好。 " * 90, encoding="utf-8")
    done = bmqwen(
        *("quantize", tiny, "-o", folder, "--group-size", "32", "--lm-head", "int8"),
        *("--calibrate", text, "--tokens", "600"),
    )
    assert done.returncode == 0, done.stderr
    assert f"bmqwen chat {folder}`" in done.stdout
    with open_checkpoint(folder) as made, open_checkpoint(tiny) as floats:
        kept = PrecisionOptions().of_checkpoint(made)
        assert kept == PrecisionOptions().at(folder) == Precision("int4", 32, "int8")
        assert PrecisionOptions("int8").of_checkpoint(made) == Precision("int8", 64, "int8")
        assert rounding_of(made, kept) == "the checkpoint's own: GPTQ with rotation and drift correction"
        assert rounding_of(made, Precision("int8")) == "to nearest"
        assert PrecisionOptions().of_checkpoint(floats) == PrecisionOptions().at(tiny) == Precision()
        assert rounding_of(floats, Precision()) == "least squared error of the weights"
    exported = bmqwen("export", folder, "-o", tmp_path / "onnx", "--json")
    assert json.loads(exported.stdout)["precision"] == kept.to_dict()
    assert "GPTQ with rotation and drift correction" in json.loads(exported.stdout)["details"]["rounding"]
    # Its evaluation is written into the bundle.
    recorded = bmqwen(
        "evaluate", tmp_path / "onnx", "--against", folder, "--text", text, "--limit", "50", "--record"
    )
    assert recorded.returncode == 0, recorded.stderr
    bundle = read_bundle(tmp_path / "onnx")
    [score] = bundle.details["evaluation"]["texts"]
    assert score["scored"] == 49
    bundle.verify_files()
    assert "evaluated on own.txt" in bmqwen("info", tmp_path / "onnx").stdout


def test_mistakes_are_one_line(bmqwen_here: Run, tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("hello")
    made = tmp_path / "made"
    assert_refused(
        bmqwen_here("quantize", tiny, "-o", made, "--calibrate", short, "--group-size", "32"), "too few"
    )
    assert_refused(
        bmqwen_here("quantize", tiny, "-o", made, "--budget", "1", "--quant", "int8"), "--budget chooses"
    )
    assert not made.exists()
    assert_refused(bmqwen_here("evaluate", tiny, "--text", short, "--record"), "--record needs a bundle")
