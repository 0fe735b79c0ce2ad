"""SAIL on the simulator, by its stand-in or, where it is installed, by the real module: what the CPU says, too."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bmqwen.bundle import Bundle
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import Engine, load
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.quant.precision import Format
from bmqwen.runtime.base import Runtime
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.runtime.sail.module import sail_installed
from checkpoints import Kind
from compiled_models import CompiledModel, compile_toy
from published_bmodel import Variant

pytestmark = pytest.mark.simulator
Compile = Callable[[Kind, Format, int], CompiledModel]
Publish = Callable[[Variant], tuple[Bundle, Path]]


def by_sail(bundle: Bundle, simulator: Toolchain, form: str = "current") -> SimulatedRuntime:
    """The bundle, opened by a form of SAIL."""
    return SimulatedRuntime(bundle, simulator.simulator_folder, opener=f"sail_probe:{form}")


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


def two_turns(engine: Engine, length: int) -> list[Completion]:
    """Two greedy answers."""
    chat = engine.chat("s", SamplingParams(max_tokens=length))
    answers = []
    for question in ("hi", "and"):
        list(chat.stream(question))
        assert chat.last is not None
        answers.append(chat.last)
    return answers


def assert_as_cpu(bundle: Bundle, runtime: SimulatedRuntime, cpu: Path, length: int) -> None:
    """The same tokens from the same parts of the prompt."""
    with Engine(bundle, runtime) as engine:
        on_chip = two_turns(engine, length)
    with load(cpu, engine="cpu") as engine:
        on_cpu = two_turns(engine, length)
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    assert [len(answer.token_ids) for answer in on_chip] == [length, length]
    assert on_chip[1].usage.cached_tokens == on_cpu[1].usage.cached_tokens > 0


@pytest.mark.parametrize(("form", "length"), [("current", 12), ("early", 3)])
def test_step_nets_say_in_two_turns_what_the_cpu_says(
    compiled: Compile, simulator: Toolchain, form: str, length: int
) -> None:
    model = compiled("qwen1.5", "int4", 8)
    assert_as_cpu(model.bundle, by_sail(model.bundle, simulator, form), model.cpu.folder, length)


def test_bfloat16_step_nets_on_a_soc(simulator: Toolchain, tmp_path: Path) -> None:
    model = compile_toy(simulator, tmp_path, "qwen1.5", "int8", 8, half="bf16")
    ids = np.random.default_rng(3).integers(0, 300, 20).tolist()
    runtime = by_sail(model.bundle, simulator, "on_soc")
    try:
        runtime.feed(ids[:18])
        rows = [runtime.feed([token]).logits()[0] for token in ids[18:]]
    finally:
        runtime.close()
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = cpu.runtime.feed(ids, every_row=True).logits()[18:]
    for row, right in zip(rows, wanted, strict=True):
        assert np.dot(row, right) / np.linalg.norm(row) / np.linalg.norm(right) >= 0.999


def test_program_takes_a_simulator_for_a_chip_and_keeps_its_output_clean(
    model: CompiledModel, simulator: Toolchain, tmp_path: Path
) -> None:
    environment = dict(os.environ)
    if not sail_installed():
        (tmp_path / "sophon").mkdir()
        (tmp_path / "sophon" / "__init__.py").touch()
        (tmp_path / "sophon" / "sail.py").write_text(
            "import sys; from pathlib import Path\n"
            f"sys.path.append({str(Path(__file__).parent)!r})\n"
            "from sail_stand_in import *; from sail_stand_in import STATE\n"
            f"STATE.folder, STATE.calls = Path({str(simulator.simulator_folder)!r}), {{}}\n"
        )
        environment["PYTHONPATH"] = str(tmp_path)
    arguments = [
        "chat",
        str(model.bundle.folder),
        "--engine",
        "tpu",
        "-p",
        "hi",
        "--max-tokens",
        "4",
        "--json",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "bmqwen", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    answer = json.loads(ran.stdout)
    assert answer["engine"].startswith("simulator of a BM1684X, SAIL")
    with load(model.cpu.folder, engine="cpu") as cpu:
        chat = cpu.chat(params=SamplingParams(max_tokens=4))
        assert answer["text"] == "".join(chat.stream("hi"))


def test_a_token_is_one_launch_that_writes_its_rows_in_place(runtime: SimulatedRuntime) -> None:
    assert isinstance(runtime, Runtime)
    runtime.truncate(0)
    runtime.feed([5, 6, 7])
    runtime.feed([8]).greedy()
    before, calls = runtime.counters, runtime._worker.call("calls")
    runtime.feed([9]).greedy()
    spent = runtime.counters - before
    # The place of the last row is the same as before, so it is not written again.
    assert (spent.launches, spent.writes, spent.reads, spent.bytes_out) == (1, 3, 1, 4)
    if not sail_installed():
        after = runtime._worker.call("calls")
        made = {name: after[name] - calls.get(name, 0) for name in after}
        assert made == {"process": 1, "update_data": 3, "asnumpy": 1, "sync_d2d": 0}


def test_truncated_restored_and_every_row(runtime: SimulatedRuntime, model: CompiledModel) -> None:
    ids = np.random.default_rng(2).integers(0, 300, 14).tolist()
    runtime.truncate(0)
    fresh = runtime.feed(ids).logits()
    saved = runtime.save_cache()
    runtime.truncate(6)
    runtime.feed([1, 2, 3, 4])
    runtime.restore_cache(saved, 13)
    assert np.abs(runtime.feed(ids[13:]).logits() - fresh).max() < 0.02
    runtime.truncate(10)
    rows = runtime.feed(ids[10:], every_row=True).logits()
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = cpu.runtime.feed(ids, every_row=True).logits()[10:]
    cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize(
    ("variant", "form"),
    [
        (Variant(), "current"),
        (Variant("BF16", "basic", mask_input=False, fused_token=True, greedy_head=False), "on_soc"),
        (Variant(), "old"),
    ],
    ids=["io_alone, F16", "basic, BF16, no mask, fused token, SoC", "before June 2024"],
)
def test_published_layout(published: Publish, simulator: Toolchain, variant: Variant, form: str) -> None:
    bundle, cpu = published(variant)
    assert_as_cpu(bundle, by_sail(bundle, simulator, form), cpu, 3)
