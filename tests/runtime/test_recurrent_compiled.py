"""Compiled models with a recurrent state say on the simulator what the CPU says, and go back to copies of the state."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import load
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.runtime.cpu import CpuRuntime
from support.compiled_models import CompiledModel, compile_toy, two_turns

pytestmark = pytest.mark.simulator
TOKENS: list[int] = np.random.default_rng(3).integers(0, 300, 96).tolist()
# Least cosine of a row of logits: in half precision the norm of a head's 16 elements magnifies what little they differ.
LEAST = 0.999


@pytest.fixture(scope="module")
def model(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    return compile_toy(simulator, tmp_path_factory.mktemp("delta"), "qwen3.5", "f16", 3, layers=4)


@pytest.fixture(scope="module")
def runtime(model: CompiledModel, simulator: Toolchain) -> Iterator[SimulatedRuntime]:
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def on_cpu(model: CompiledModel) -> Iterator[CpuRuntime]:
    runtime = CpuRuntime(model.cpu, threads=1)
    yield runtime
    runtime.close()


def assert_alike(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Compare rows of logits."""
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    assert min((got * wanted).sum(axis=1) / norms) > LEAST


def said(runtime: Runtime, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    """Logits after a prompt and after each token of an answer."""
    sequence = RuntimeSequence(runtime)
    *_, last = sequence.read(prompt)
    rows = [last.logits().copy()]
    rows += [sequence.feed([token]).logits().copy() for token in answer]
    return np.concatenate(rows)


def fresh(runtime: Runtime, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    """The same from the beginning on."""
    runtime.truncate(0, 0)
    return said(runtime, prompt, answer)


# By nets of 1, 8, 32 and 64 tokens, full and padded, alone and after each other.
@pytest.mark.parametrize("length", [41, 93])
def test_prompts_of_any_length_are_read_as_on_the_cpu(
    runtime: SimulatedRuntime, on_cpu: CpuRuntime, length: int
) -> None:
    got, wanted = (fresh(one, TOKENS[:length], TOKENS[-3:]) for one in (runtime, on_cpu))
    assert_alike(got, wanted)


def test_going_back_reads_what_comes_after_a_copy_of_the_state(
    runtime: SimulatedRuntime, on_cpu: CpuRuntime
) -> None:
    prompt, other = TOKENS[:50], TOKENS[60:64]
    wanted = fresh(on_cpu, prompt, TOKENS[-1:])
    first = fresh(runtime, prompt, TOKENS[-1:])
    # The same question again, and the next turn, which has another end.
    runtime.truncate(0, 49)
    before = runtime.counters.launches
    again = said(runtime, prompt[49:], TOKENS[-1:])
    assert runtime.counters.launches - before == 2
    assert_alike(again, wanted)
    assert_alike(again, first)
    runtime.truncate(0, 47)
    turn = said(runtime, other, [])
    assert_alike(turn, fresh(on_cpu, prompt[:47] + other, []))


@pytest.mark.thorough
def test_saved_and_restored(runtime: SimulatedRuntime, on_cpu: CpuRuntime) -> None:
    fresh(runtime, TOKENS[:40], TOKENS[-2:])
    saved = runtime.save(0)
    assert saved.nbytes > saved.rows.nbytes
    fresh(runtime, TOKENS[50:60], [])
    whole = [*TOKENS[:40], *TOKENS[-2:]]
    for position in (42, 35, 20):
        runtime.restore(0, saved, position)
        wanted = fresh(on_cpu, whole[:position], TOKENS[70:71])[-1:]
        got = RuntimeSequence(runtime).feed(TOKENS[70:71]).logits()
        assert_alike(got, wanted)


@pytest.mark.thorough
def test_two_turns_say_what_the_cpu_says(model: CompiledModel) -> None:
    on_chip = two_turns(load(model.bundle.folder, engine="sim"), 8)
    on_cpu = two_turns(load(model.cpu.folder, engine="cpu"), 8)
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    assert on_chip[1].usage.cached_tokens >= on_chip[0].usage.prompt_tokens
