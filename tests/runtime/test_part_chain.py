"""A toy model in two parts, each on a simulator of its own, says what it says on one, by libbmrt and by SAIL."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.bundle import read_bundle
from bmqwen.artifact.footprint import bmodel_footprint, footprint
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.errors import BundleError, DeviceError
from bmqwen.generate.batcher import Batcher
from bmqwen.generate.params import SamplingParams
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Feed
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime, open_simulators
from support.compiled_models import CompiledModel, compile_toy
from support.toy_tokenizer import toy_tokenizer

pytestmark = pytest.mark.simulator
CONTEXT, SEQUENCES = 40, 3
PROMPTS = [np.random.default_rng(seed).integers(0, 300, n).tolist() for seed, n in ((1, 9), (2, 5), (3, 36))]
ANSWER = 5
OPENERS = {"libbmrt": "bmqwen.runtime.bmrt.simulated:open_part", "SAIL": "support.sail_probe:current_part"}


@pytest.fixture(scope="module")
def model(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """In two parts of a layer each."""
    folder = tmp_path_factory.mktemp("parts")
    return compile_toy(simulator, folder, "qwen2.5", "int4", 5, context=CONTEXT, sequences=SEQUENCES, parts=2)


@pytest.fixture(scope="module")
def undivided(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """The same weights in one part; the nets are those of test_several_sequences.py."""
    folder = tmp_path_factory.mktemp("whole")
    return compile_toy(simulator, folder, "qwen2.5", "int4", 5, context=CONTEXT, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def whole(simulator: Toolchain, undivided: CompiledModel) -> Iterator[SimulatedRuntime]:
    """That, on one simulator."""
    runtime = SimulatedRuntime(undivided.bundle, simulator.simulator_folder)
    yield runtime
    runtime.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(OPENERS["libbmrt"], id="libbmrt"),
        pytest.param(OPENERS["SAIL"], id="SAIL", marks=pytest.mark.thorough),
    ],
)
def runtime(
    request: pytest.FixtureRequest, model: CompiledModel, simulator: Toolchain
) -> Iterator[StepRuntime]:
    """The parts, loaded by either library."""
    runtime = open_simulators(model.bundle, simulator.simulator_folder, opener=request.param)
    yield runtime
    runtime.close()


def logits(runtime: StepRuntime | SimulatedRuntime) -> list[np.ndarray]:
    """Of prompts side by side, then of steps of one token each, with one sequence that is saved and comes back."""
    found = []
    for sequence in range(SEQUENCES):
        runtime.truncate(sequence, 0)
    outputs = runtime.step([Feed(s, prompt) for s, prompt in enumerate(PROMPTS)])
    for step in range(3):
        found += [output.logits() for output in outputs]
        tokens = [output.greedy() for output in outputs]
        if step == 1:
            saved = runtime.save(1)
            runtime.truncate(1, 0)
            runtime.restore(1, saved, saved.position)
        outputs = runtime.step([Feed(s, last) for s, last in enumerate(tokens)])
    return found


@pytest.fixture(scope="module")
def expected(whole: SimulatedRuntime) -> list[np.ndarray]:
    """The logits of the whole."""
    return logits(whole)


def test_logits_are_those_of_one_chip_to_the_bit(runtime: StepRuntime, expected: list[np.ndarray]) -> None:
    for mine, its in zip(logits(runtime), expected, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert runtime.name.startswith("BM1684X, simulator of model-1 and simulator of model-2")


def test_a_step_hands_over_its_rows_alone(runtime: StepRuntime) -> None:
    for sequence in range(SEQUENCES):
        runtime.truncate(sequence, 0)
    before = runtime.counters
    (output,) = runtime.step([Feed(0, PROMPTS[0], greedy=True)])
    output.greedy()
    spent = runtime.counters - before
    # A launch for each part; what is read is the nine hidden rows of halves, and the token.
    assert (spent.launches, spent.reads) == (2, 2)
    assert spent.bytes_out == len(PROMPTS[0]) * 128 * 2 + 4


def test_a_batcher_says_the_same_on_both(runtime: StepRuntime, whole: SimulatedRuntime) -> None:
    """Steps of two groups are under way in the parts at once; one of the answers is sampled, so its logits are read."""
    said, under_way = [], []
    for each in (runtime, whole):
        batcher = Batcher(each, toy_tokenizer())
        batcher.reset()
        generations = [
            batcher.add(prompt[:30], SamplingParams(max_tokens=ANSWER, temperature=temperature, seed=7))
            for prompt, temperature in zip(PROMPTS, (0.0, 0.9, 0.0), strict=True)
        ]
        most = 0
        while not all(generation.over for generation in generations):
            batcher.step()
            most = max(most, len(batcher._under_way))
        under_way.append(most)
        said.append([g.completion.token_ids for g in generations if g.completion])
        batcher.reset()
    assert len(said[0]) == 3
    assert said[0] == said[1]
    # When a call of `step` returns: those that go on.
    assert under_way == [1, 0]


def test_two_answers_have_a_step_each_where_that_costs_less(runtime: StepRuntime) -> None:
    batcher = Batcher(runtime, toy_tokenizer(), drafts=False)
    batcher.reset()
    generations = [batcher.add(prompt[:5], SamplingParams(max_tokens=9)) for prompt in PROMPTS[:2]]
    while any(generation.reading for generation in generations):
        batcher.step()
    assert runtime.steps_at_once(2) == 2
    for _ in range(3):
        batcher.step()
        assert [len(step) for step in batcher._under_way] == [1]
    batcher.reset()
    # Three share a net of eight rows, of which two groups would need two.
    assert runtime.steps_at_once(3) == 1
    assert runtime.steps_at_once(3, reading=True) == 2


def test_parts_take_as_long_as_the_whole(model: CompiledModel, undivided: CompiledModel) -> None:
    stages = model.bundle.details["stages"]
    for mine, its in zip(stages, undivided.bundle.details["stages"], strict=True):
        # The net that only moves rows is nearly nothing.
        assert 0.99 <= mine["cycles"] / its["cycles"] <= 1.03 or not mine["rows"]
    first, last = (part["stages"] for part in model.bundle.details["parts"])
    for one, two, total in zip(first, last, stages, strict=True):
        assert one["cycles"] + two["cycles"] == total["cycles"]


def test_memory_of_each_chip_is_what_the_arithmetic_gives(model: CompiledModel) -> None:
    for part in model.bundle.parts:
        description = read_description(part.bmodel)
        planned = footprint(part.config, Precision(**model.bundle.precision), CONTEXT, SEQUENCES)
        assert planned.weights == bmodel_footprint(description).weights
        assert planned.pieces[-1] == max(stage.io_bytes for stage in description.nets["step"].stages)


def test_parts_that_were_exchanged_are_refused(
    model: CompiledModel, simulator: Toolchain, tmp_path: Path
) -> None:
    first, second = model.bundle.parts
    swapped = [replace(part, bmodel=other.bmodel) for part, other in ((first, second), (second, first))]

    class Swapped:
        parts = tuple(swapped)
        config, details, folder, path = (
            getattr(model.bundle, name) for name in ("config", "details", "folder", "path")
        )

    with pytest.raises(BundleError, match="it does not fit its manifest, make the bundle again"):
        open_simulators(Swapped(), simulator.simulator_folder)  # type: ignore[arg-type]
    # A part of another bundle has another size, or another hash.
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in model.bundle.folder.iterdir():
        source = second.bmodel if path == first.bmodel else path
        (folder / path.name).write_bytes(source.read_bytes())
    with pytest.raises(BundleError, match="the manifest says"):
        read_bundle(folder)


def test_a_part_that_ends_fails_the_step_and_no_more(model: CompiledModel, simulator: Toolchain) -> None:
    runtime = open_simulators(model.bundle, simulator.simulator_folder)
    try:
        chain = runtime._device_nets
        chain._parts[1].abort()  # type: ignore[union-attr]
        with pytest.raises(
            DeviceError, match=r"the simulator of model-2\.bmodel was used after it was closed"
        ):
            runtime.step([Feed(0, PROMPTS[0])])[0].greedy()
        # Whoever asks next is told as well: rows of the failed launch are missing.
        for _ in range(2):
            with pytest.raises(DeviceError):
                chain.memory_used()  # type: ignore[union-attr]
    finally:
        runtime.close()
