"""Comparing nets with the float model: what passes, what must not, and how long it takes."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from bmqwen.artifact.bundle import Bundle, read_bundle, write_manifest
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.cli.app import run
from bmqwen.cli.commands.verify import lines
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.errors import InputError
from bmqwen.evaluation.verify import (
    NetReport,
    Similarity,
    VerifyReport,
    cached_rows,
    choose_nets,
    duration,
    estimate_seconds,
    verify,
)
from bmqwen.quant.precision import Format, Precision
from bmqwen.runtime.bmodel.step_runtime import StageResult, StepRuntime
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.gptq_writer import write_safetensors
from support.checkpoints import Kind, tiny_config, write_checkpoint, write_tokenizer
from support.compiled_models import CompiledModel, compile_toy

Compile = Callable[[Kind, Format, int], CompiledModel]


def test_errors_beyond_all_bounds_keep_their_column() -> None:
    def row(error: float) -> str:
        off = Similarity(0.0, error, 0.999997, 1.0, same_token=False)
        net = NetReport(1, 64, 63, off, off, passed=False, seconds=1.0)
        report = VerifyReport("m", "int4", "f16", 308_461.0, 0.9999, 5, (net,))
        assert report.overflows
        return list(lines(report))[2]

    assert row(3.4e38).index("3.4e+38  differs") == row(0.5).index("0.5000  differs") - 1
    assert row(float("nan")).endswith("     nan  differs  FAILED")


def test_runs_of_nets_with_states_have_a_column_for_them() -> None:
    close = Similarity(0.99999, 0.1, 0.99998, 0.1, same_token=True, state_cosine=0.9, state_error=0.5)
    assert close.cosine == 0.9
    runs = tuple(
        NetReport(8, 512, 64, close, close, passed=False, seconds=1.0, committed=committed)
        for committed in (8, 1)
    )
    report = VerifyReport("m", "int4", "f16", 3.0, 0.9999, 5, runs)
    above, heads, *rows, verdict = lines(report)
    assert heads.split() == ["net", "cached", "committed", *["logits", "K/V", "states"] * 2, "error", "token"]
    assert above.index("to float32") + len("to float32") == heads.rindex("states") + len("states")
    for row, committed in zip(rows, ("8", "1"), strict=True):
        assert row.index("0.900000") + 8 == heads.index("states") + len("states")
        assert row.split()[:3] == ["8x512", "64", committed]
    assert "1 of 5 nets" in verdict


@pytest.fixture
def described(tmp_path: Path) -> Bundle:
    """What is known of a bundle before anything is loaded."""
    shapes = (StepShape(1, 128), StepShape(1, 512), StepShape(8, 512))
    nets = StepNets(512, dict.fromkeys(shapes, 1))
    return Bundle(
        tmp_path, "bmodel", "toy", tiny_config(), Precision("f16", 32, "f16").to_dict(), nets.to_dict()
    )


def test_choosing_nets(described: Bundle) -> None:
    assert choose_nets(described, None) == [StepShape(1, 128), StepShape(1, 512), StepShape(8, 512)]
    assert choose_nets(described, "8, 1x128") == [StepShape(8, 512), StepShape(1, 128)]
    assert choose_nets(described, "1,1x512") == [StepShape(1, 128), StepShape(1, 512)]
    with pytest.raises(InputError, match="no net '32': it has 1x128, 1x512, 8x512"):
        choose_nets(described, "32")


def test_estimate_counts_weights_and_products() -> None:
    config = tiny_config("qwen1.5", layers=1)
    layer = 64 * 64 * 4 + 3 * 64 * 128
    attention = 2 * 64 * (512 + 8)
    expected = 1 + (layer + 320 * 64) / 8e6 + (8 * (layer + attention) + 320 * 64) / 1.2e8
    assert estimate_seconds(config, [StepShape(8, 512)]) == pytest.approx(expected)
    # Nets with states run twice: after all tokens of a step, and as a prompt's last one.
    assert estimate_seconds(tiny_config("qwen3.5"), [StepShape(8, 512)]) > 2
    assert [duration(s) for s in (5, 300, 9000)] == ["5 seconds", "5 minutes", "2.5 hours"]


class Overflown:
    """A runtime whose nets compute what is no number."""

    def run_stage(self, _: StepShape, ids: Sequence[int], *__: object) -> StageResult:
        """Infinities and worse."""
        config = tiny_config()
        rows = np.full((4, len(ids), config.num_key_value_heads, config.head_dim), np.inf, np.float32)
        return StageResult([0], np.full((1, config.vocab_size), np.nan, np.float32), rows)


def test_what_is_no_number_fails_and_is_still_json(described: Bundle, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", tiny_config())
    write_tokenizer(tmp_path)
    with open_checkpoint(tmp_path / "model") as checkpoint:
        report = verify(described, checkpoint, cast(StepRuntime, Overflown()), [StepShape(1, 128)])
    assert not report.passed
    assert report.stages[0].to_float.cosine == 0
    assert 0 < report.largest_activation < 100
    assert not report.overflows
    json.dumps(report.to_dict(), allow_nan=False)


def test_values_beyond_half_precision_are_named(described: Bundle, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    write_tokenizer(tmp_path)
    with open_checkpoint(folder) as checkpoint:
        tensors = {name: checkpoint.weights.read(name) for name in checkpoint.config.network.shapes()}
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e6
    write_safetensors(folder / "model.safetensors", tensors)
    with open_checkpoint(folder) as checkpoint:
        report = verify(described, checkpoint, cast(StepRuntime, Overflown()), [StepShape(1, 128)])
    assert report.overflows
    assert report.largest_activation > 65504


@pytest.mark.parametrize(
    ("shape", "context", "cached"),
    [
        ((1, 128), 512, 64),
        ((32, 0), 512, 0),
        ((128, 512), 512, 64),
        ((64, 96), 96, 32),
        # Where the new rows have no room below the end of the history, they follow it.
        ((512, 512), 1024, 512),
        ((512, 512), 512, 0),
    ],
)
def test_history_that_a_net_is_run_after(shape: tuple[int, int], context: int, cached: int) -> None:
    assert cached_rows(StepShape(*shape), context, 64) == cached


def compare(model: CompiledModel, simulator: Toolchain, stages: str, checkpoint: Path) -> VerifyReport:
    """`verify` by itself."""
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder)
    try:
        with open_checkpoint(checkpoint) as opened:
            return verify(model.bundle, opened, runtime, choose_nets(model.bundle, stages), tokens=40)
    finally:
        runtime.close()


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("kind", "form", "seed", "stages"),
    [("qwen1.5", "f16", 8, "1,8"), ("qwen2.5", "int8", 6, "1"), ("qwen2.5", "int4", 5, "1,8,32x0,64x96")],
)
def test_right_nets_pass(
    compiled: Compile, simulator: Toolchain, kind: Kind, form: Format, seed: int, stages: str
) -> None:
    model = compiled(kind, form, seed)
    report = compare(model, simulator, stages, model.checkpoint)
    assert report.passed
    assert len(report.stages) == len(stages.split(","))
    assert report.nets == 7
    for stage in report.stages:
        assert stage.cached == max(0, min(40, stage.history - stage.tokens))
        if form == "f16":
            assert stage.to_grid is None
            assert stage.to_float.cosine >= 0.9999
        else:
            assert stage.to_grid is not None
            assert stage.to_grid.cosine >= 0.9999
            assert stage.to_grid.same_token
        if form == "int4":
            # The comparison tells a grid from the weights that were rounded to it.
            assert stage.to_float.cosine < 0.995


@pytest.mark.simulator
@pytest.mark.thorough
def test_bfloat16_has_a_threshold_of_its_own(simulator: Toolchain, tmp_path: Path) -> None:
    model = compile_toy(simulator, tmp_path, "qwen1.5", "int4", 8, half="bf16")
    report = compare(model, simulator, "1", model.checkpoint)
    assert report.threshold == 0.999
    assert report.passed
    assert report.stages[0].to_grid is not None
    assert report.stages[0].to_grid.same_token


@pytest.mark.simulator
def test_nets_of_other_weights_fail(compiled: Compile, simulator: Toolchain, tmp_path: Path) -> None:
    model = compiled("qwen1.5", "f16", 8)
    other = write_checkpoint(tmp_path / "other", model.bundle.config, seed=9)
    report = compare(model, simulator, "1", other)
    assert not report.passed
    assert report.stages[0].to_float.cosine < 0.9


@pytest.fixture
def copy(compiled: Compile, tmp_path: Path) -> CompiledModel:
    """A bundle to spoil."""
    model = compiled("qwen1.5", "f16", 8)
    folder = tmp_path / "copy"
    shutil.copytree(model.bundle.folder, folder)
    return CompiledModel(model.checkpoint, read_bundle(folder), model.cpu)


@pytest.mark.simulator
def test_command(copy: CompiledModel, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(copy.bundle.folder), "--against", str(copy.checkpoint), "--stages", "1"]
    assert run([*arguments, "--json", "--tokens", "10"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert result["threshold"] == 0.9999
    assert result["stages"][0]["cached"] == 10
    assert result["stages"][0]["to_float"]["logits_cosine"] >= 0.9999
    assert run([*arguments, "--tokens", "3"]) == 0
    printed = capsys.readouterr()
    assert "passed; 1 of 7 nets, cosine to float32 at least 0.9999" in printed.out
    assert "1 net, about" in printed.err


@pytest.mark.simulator
def test_command_fails_for_a_wrong_table(copy: CompiledModel, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy.bundle.folder / "embedding.bin"
    table = np.fromfile(path, np.uint16).reshape(copy.bundle.config.vocab_size, -1)
    arguments = ["verify", str(copy.bundle.folder), "--against", str(copy.checkpoint), "--stages", "1"]
    table[::-1].tofile(path)
    assert run(arguments) == 2
    assert "its hash differs" in capsys.readouterr().err
    write_manifest(copy.bundle)
    assert run(arguments) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.simulator
def test_command_refuses(
    copy: CompiledModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = str(copy.bundle.folder)
    assert run(["verify", str(copy.cpu.folder)]) == 2
    assert "was not made by `bmqwen compile`" in capsys.readouterr().err
    assert run(["verify", folder, "--stages", "5"]) == 2
    assert "it has 1x96, 8x96, 16x96, 32x0, 32x96, 64x0, 64x96" in capsys.readouterr().err
    write_checkpoint(tmp_path / "other", copy.bundle.config, seed=1)
    assert run(["verify", folder, "--stages", "1", "--against", str(tmp_path / "other")]) == 2
    assert "was not made from" in capsys.readouterr().err
    monkeypatch.setattr("bmqwen.cli.commands.verify.PATIENCE_SECONDS", 2)
    assert run(["verify", folder]) == 2
    assert "--stages 1x96: about 1 second" in capsys.readouterr().err
