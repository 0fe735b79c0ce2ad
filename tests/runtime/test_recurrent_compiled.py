"""Compiled models with a recurrent state say on the simulator what the CPU says, and go back to copies of the state."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.compiler.toolchain import Toolchain
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.runtime.cpu import CpuRuntime
from support.compiled_models import CompiledModel, compile_toy

pytestmark = pytest.mark.simulator
TOKENS: list[int] = np.random.default_rng(3).integers(0, 300, 96).tolist()
# Of logits that spread by 1, in half precision.
TOLERANCE = 0.02


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


def said(runtime: Runtime, tokens: list[int]) -> NDArray[np.float32]:
    """Logits after a prompt and after each of some tokens that follow it."""
    sequence = RuntimeSequence(runtime)
    *_, last = sequence.read(tokens[:-3])
    rows = [last.logits().copy()]
    for token in tokens[-3:]:
        rows.append(sequence.feed([token]).logits().copy())
    return np.concatenate(rows)


def fresh(runtime: Runtime, tokens: list[int]) -> NDArray[np.float32]:
    runtime.truncate(0, 0)
    return said(runtime, tokens)


@pytest.mark.parametrize("length", [4, 11, 35, 44, 75])
def test_prompts_of_any_length_are_read_as_on_the_cpu(
    runtime: SimulatedRuntime, on_cpu: CpuRuntime, length: int
) -> None:
    got, wanted = (fresh(one, TOKENS[:length]) for one in (runtime, on_cpu))
    print(length, np.abs(got - wanted).max(), wanted.std())
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
