"""SAIL on the simulator, by its stand-in or, where it is installed, by the real module: what the CPU says, too."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import Engine, load
from bmqwen.errors import DeviceError
from bmqwen.quant.precision import Format
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.runtime.sail.module import sail_installed
from support.checkpoints import Kind
from support.compiled_models import CompiledModel, compile_toy, two_turns
from support.published_bmodel import Variant
from support.sail_stand_in import write_package

pytestmark = pytest.mark.simulator
Compile = Callable[[Kind, Format, int], CompiledModel]
Publish = Callable[[Variant], tuple[Bundle, Path]]


def by_sail(bundle: Bundle, simulator: Toolchain, form: str = "current", device: int = 0) -> SimulatedRuntime:
    """The bundle, opened by a form of SAIL."""
    opener = f"support.sail_probe:{form}"
    return SimulatedRuntime(bundle, simulator.simulator_folder, device=device, opener=opener)


@pytest.fixture(scope="module")
def model(compiled: Compile) -> CompiledModel:
    """Step nets."""
    return compiled("qwen2.5", "int4", 5)


@pytest.fixture(scope="module")
def runtime(model: CompiledModel, simulator: Toolchain) -> Iterator[SimulatedRuntime]:
    """Them, loaded."""
    runtime = by_sail(model.bundle, simulator)
    yield runtime
    runtime.close()


def assert_as_cpu(bundle: Bundle, runtime: SimulatedRuntime, cpu: Path, length: int) -> None:
    """The same tokens from the same parts of the prompt."""
    on_chip = two_turns(Engine(bundle, runtime), length)
    on_cpu = two_turns(load(cpu, engine="cpu"), length)
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    assert [len(answer.token_ids) for answer in on_chip] == [length, length]
    assert on_chip[1].usage.cached_tokens == on_cpu[1].usage.cached_tokens > 0


@pytest.mark.parametrize(
    ("form", "length"), [("current", 12), pytest.param("middle", 2, marks=pytest.mark.thorough)]
)
def test_step_nets_say_in_two_turns_what_the_cpu_says(
    compiled: Compile, simulator: Toolchain, form: str, length: int
) -> None:
    model = compiled("qwen1.5", "int4", 8)
    assert_as_cpu(model.bundle, by_sail(model.bundle, simulator, form), model.cpu.folder, length)


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["current", "middle", "on_soc"])
def test_the_net_of_one_token_changes_the_state_where_it_lies(
    compiled: Compile, simulator: Toolchain, form: str
) -> None:
    model = compiled("qwen3.5", "f16", 3)
    assert_as_cpu(model.bundle, by_sail(model.bundle, simulator, form), model.cpu.folder, 8)


@pytest.mark.thorough
def test_bfloat16_step_nets_on_a_soc(simulator: Toolchain, tmp_path: Path) -> None:
    model = compile_toy(simulator, tmp_path, "qwen1.5", "int8", 8, half="bf16")
    ids = np.random.default_rng(3).integers(0, 300, 20).tolist()
    runtime = by_sail(model.bundle, simulator, "on_soc")
    try:
        RuntimeSequence(runtime).feed(ids[:18])
        rows = [RuntimeSequence(runtime).feed([token]).logits()[0] for token in ids[18:]]
    finally:
        runtime.close()
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = RuntimeSequence(cpu.runtime).feed(ids, every_row=True).logits()[18:]
    for row, right in zip(rows, wanted, strict=True):
        assert np.dot(row, right) / np.linalg.norm(row) / np.linalg.norm(right) >= 0.999


def test_an_installed_module_takes_the_place_of_the_stand_in(
    model: CompiledModel, simulator: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, simulator.simulator_folder, "3.99.1", devices=1)
    monkeypatch.syspath_prepend(tmp_path)
    runtime = by_sail(model.bundle, simulator)
    try:
        assert runtime.name == "simulator of a BM1684X, SAIL 3.99.1"
        (token,) = RuntimeSequence(runtime).feed([5, 6]).greedy()
    finally:
        runtime.close()
    with load(model.cpu.folder, engine="cpu") as cpu:
        assert RuntimeSequence(cpu.runtime).feed([5, 6]).greedy() == [token]
    with pytest.raises(DeviceError, match="there is no device 1: 1 found: choose with --device, here only"):
        by_sail(model.bundle, simulator, device=1)


def test_a_token_is_one_launch_that_writes_its_rows_in_place(runtime: SimulatedRuntime) -> None:
    assert isinstance(runtime, Runtime)
    RuntimeSequence(runtime).truncate(0)
    RuntimeSequence(runtime).feed([5, 6, 7])
    RuntimeSequence(runtime).feed([8]).greedy()
    before, calls = runtime.counters, runtime._worker.call("calls")
    RuntimeSequence(runtime).feed([9]).greedy()
    spent = runtime.counters - before
    # The place of the last row is the same as before, so it is not written again.
    assert (spent.launches, spent.writes, spent.reads, spent.bytes_out) == (1, 3, 1, 4)
    if not sail_installed():
        after = runtime._worker.call("calls")
        made = {name: after[name] - calls.get(name, 0) for name in after}
        assert made == {"process": 1, "update_data": 3, "asnumpy": 1, "sync_d2d": 0}


def test_truncated_restored_and_every_row(runtime: SimulatedRuntime, model: CompiledModel) -> None:
    ids = np.random.default_rng(2).integers(0, 300, 14).tolist()
    RuntimeSequence(runtime).truncate(0)
    fresh = RuntimeSequence(runtime).feed(ids).logits()
    saved = RuntimeSequence(runtime).save()
    RuntimeSequence(runtime).truncate(6)
    RuntimeSequence(runtime).feed([1, 2, 3, 4])
    RuntimeSequence(runtime).restore(saved, 13)
    assert np.abs(RuntimeSequence(runtime).feed(ids[13:]).logits() - fresh).max() < 0.02
    RuntimeSequence(runtime).truncate(10)
    rows = RuntimeSequence(runtime).feed(ids[10:], every_row=True).logits()
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = RuntimeSequence(cpu.runtime).feed(ids, every_row=True).logits()[10:]
    cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize(
    ("variant", "form"),
    [
        pytest.param(Variant(), "current", marks=pytest.mark.thorough),
        (Variant("BF16", "basic", mask_input=False, fused_token=True, greedy_head=False), "on_soc"),
    ],
    ids=["io_alone, F16", "basic, BF16, no mask, fused token, SoC"],
)
def test_published_layout(published: Publish, simulator: Toolchain, variant: Variant, form: str) -> None:
    bundle, cpu = published(variant)
    assert_as_cpu(bundle, by_sail(bundle, simulator, form), cpu, 3)
