"""Predictions against the real compiler and the runtime on the simulator, at toy size."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmqwen.artifact.bundle import read_bundle
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.plan import make_plan
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.estimate.chart import write_chart
from bmqwen.estimate.estimate import Estimate, estimate_bundle, estimate_model
from bmqwen.estimate.forecast import Question
from bmqwen.estimate.trace import write_trace
from bmqwen.quant.precision import Format, Precision
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import Kind, tiny_config, write_checkpoint
from support.compiled_models import CompiledModel
from support.kept_nets import compile_net

pytestmark = pytest.mark.simulator
LAYERS, CONTEXT = 5, 64
PRECISION = Precision("int4", 32, "int4")
QUESTION = Question(11, 6)
CONFIG = tiny_config("qwen1.5", layers=LAYERS, hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module", autouse=True)
def cache(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Timings of other runs are not to be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMQWEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("BMQWEN_TOOLCHAIN", str(simulator.root))
        yield


@pytest.fixture(scope="module")
def bundle(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model, compiled from weights."""
    folder = tmp_path_factory.mktemp("whole")
    write_checkpoint(folder / "model", CONFIG, seed=4)
    with open_checkpoint(folder / "model") as checkpoint:
        compile_model(
            checkpoint, folder / "bundle", PRECISION, seq_len=CONTEXT, sequences=1, toolchain=simulator
        )
    return folder / "bundle"


@pytest.fixture(scope="module")
def estimated() -> Estimate:
    """The same model from its configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bmqwen.estimate.net_store.compile_net", compile_net)
        return predict()


def predict() -> Estimate:
    plan = make_plan(("toy", CONFIG), PRECISION, CONTEXT, "f16", sequences=1)
    return estimate_model("toy", plan, DEFAULT_CHIP.host, QUESTION, progress=Silent())


@pytest.mark.thorough
def test_two_layers_foretell_the_whole_model(bundle: Path, estimated: Estimate) -> None:
    whole = estimate_bundle(read_bundle(bundle), DEFAULT_CHIP.host, QUESTION).forecast
    for (shape, found), (same, real) in zip(estimated.forecast.nets, whole.nets, strict=True):
        assert shape == same
        assert found.cycles == pytest.approx(real.cycles, rel=0.002)
        assert found.bytes_moved == pytest.approx(real.bytes_moved, rel=0.002)
        assert found.part_cycles == pytest.approx(real.part_cycles, rel=0.05)
    assert estimated.forecast.first_token_s == pytest.approx(whole.first_token_s, rel=0.002)
    assert estimated.forecast.tokens_per_s == pytest.approx(whole.tokens_per_s, rel=0.002)


def test_calls_are_those_that_the_runtime_makes(
    compiled: Callable[[Kind, Format, int], CompiledModel], simulator: Toolchain
) -> None:
    bundle = compiled("qwen2.5", "int4", 5).bundle
    predicted = estimate_bundle(bundle, DEFAULT_CHIP.host, Question(11, 4)).forecast
    runtime = SimulatedRuntime(bundle, simulator.simulator_folder)
    try:
        before = runtime.counters
        RuntimeSequence(runtime).feed(list(range(1, 12))).greedy()
        first = runtime.counters - before
        assert first.launches == len(predicted.prompt_launches)
        assert first.launches + first.writes + first.reads == predicted.first.host_ops
        before = runtime.counters
        for _ in range(3):
            RuntimeSequence(runtime).feed([7]).greedy()
        answer = runtime.counters - before
        assert answer.launches + answer.writes + answer.reads == predicted.answer.host_ops == 9
        assert answer.device_copies == 0
        assert first.row_bytes == predicted.first.copied_bytes
        assert answer.row_bytes == predicted.answer.copied_bytes > 0
    finally:
        runtime.close()


def test_known_timings_are_not_made_again(
    estimated: Estimate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("bmqwen.estimate.net_store.compile_net", fail)
    again = predict()
    assert again.to_dict() == estimated.to_dict()
    write_chart(again, tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").stat().st_size > 10_000
    write_trace(again, tmp_path / "trace.json")
    trace = (tmp_path / "trace.json").read_text()
    assert all(f'"{shape}: 1 of {LAYERS} layers' in trace for shape in again.timelines)
    assert trace.count('"X"') > 20 * len(again.timelines)
