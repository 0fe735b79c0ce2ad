"""Compiled toy models talk on the simulator, as the CPU does with the same weights."""

import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bmodel import Table, check_bmodel
from bmqwen.artifact.bundle import read_bundle, write_manifest
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import load
from bmqwen.errors import BundleError, ContextLengthError, DeviceError, InputError
from bmqwen.quant.precision import Format
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from support.checkpoints import Kind
from support.compiled_models import CONTEXT, CompiledModel, compile_toy, two_turns

pytestmark = pytest.mark.simulator
Compile = Callable[[Kind, Format, int], CompiledModel]
# Seeds whose two most likely tokens are never closer than 0.04 in what is generated here.
CHATS = [
    pytest.param("qwen1.5", "f16", 8, marks=pytest.mark.thorough),
    pytest.param("qwen2.5", "int8", 6, marks=pytest.mark.thorough),
    ("qwen1.5", "int4", 8),
    ("qwen3", "f16", 5),
]


@pytest.fixture(scope="module")
def model(compiled: Compile) -> CompiledModel:
    """The one that most tests use."""
    return compiled("qwen2.5", "int4", 5)


@pytest.fixture(scope="module")
def runtime(model: CompiledModel, simulator: Toolchain) -> Iterator[SimulatedRuntime]:
    """It, loaded; tests leave it usable."""
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder)
    yield runtime
    runtime.close()


def tokens(count: int, seed: int = 0) -> list[int]:
    """Random ones."""
    ids: list[int] = np.random.default_rng(seed).integers(0, 300, count).tolist()
    return ids


@pytest.mark.parametrize(("kind", "form", "seed"), CHATS)
def test_two_turns_say_what_the_cpu_says(compiled: Compile, kind: Kind, form: Format, seed: int) -> None:
    model = compiled(kind, form, seed)
    on_chip = two_turns(load(model.bundle.folder, engine="sim"), 12)
    on_cpu = two_turns(load(model.cpu.folder, engine="cpu"), 12)
    assert [len(answer.token_ids) for answer in on_chip] == [12, 12]
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    assert [answer.text for answer in on_chip] == [answer.text for answer in on_cpu]
    assert on_chip[0].usage.cached_tokens == 0
    # The second turn reads only what the cache does not hold.
    assert on_chip[1].usage.cached_tokens >= on_chip[0].usage.prompt_tokens
    assert on_chip[1].usage.cached_tokens == on_cpu[1].usage.cached_tokens


def test_one_launch_and_four_bytes_a_token(runtime: SimulatedRuntime, model: CompiledModel) -> None:
    RuntimeSequence(runtime).truncate(0)
    ids = tokens(13)
    before = runtime.counters
    RuntimeSequence(runtime).feed(ids).greedy()
    prompt = runtime.counters - before
    nets = StepNets.from_dict(model.bundle.details, "the bundle")
    assert prompt.launches == len(nets.plan(0, 13))
    before = runtime.counters
    for _ in range(3):
        output = RuntimeSequence(runtime).feed([7])
        output.greedy()
    decode = runtime.counters - before
    assert (decode.launches, decode.writes, decode.reads) == (3, 3, 3)
    assert decode.bytes_out == 12
    # The history is read where it lies; of each layer a new row of K and of V goes to its place.
    assert decode.device_copies == 0
    row_bytes = 2 * model.bundle.config.kv_size
    layers = model.bundle.config.num_hidden_layers
    assert (decode.row_copies, decode.row_bytes) == (3 * 2 * layers, 3 * 2 * layers * row_bytes)
    # A conversation's beginning is written in place.
    assert prompt.row_copies == 0
    before = runtime.counters
    row = output.logits()
    assert (runtime.counters - before).bytes_out == 4 * runtime.vocab_size
    assert row.shape == (1, runtime.vocab_size)
    assert row.dtype == np.float32


def test_logits_are_those_of_the_cpu_and_greedy_is_their_largest(
    runtime: SimulatedRuntime, model: CompiledModel
) -> None:
    ids = tokens(43, seed=1)
    RuntimeSequence(runtime).truncate(0)
    output = RuntimeSequence(runtime).feed(ids)
    row = output.logits()[0]
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = RuntimeSequence(cpu.runtime).feed(ids).logits()[0]
    assert np.dot(row, wanted) / np.linalg.norm(row) / np.linalg.norm(wanted) >= 0.9999
    assert output.greedy()[-1] == row.argmax() == wanted.argmax()


def test_truncated_and_fed_again_equals_fresh(runtime: SimulatedRuntime) -> None:
    ids = tokens(20, seed=2)
    RuntimeSequence(runtime).truncate(0)
    fresh = RuntimeSequence(runtime).feed(ids).logits()
    RuntimeSequence(runtime).feed(tokens(9, seed=3))
    RuntimeSequence(runtime).truncate(12)
    assert RuntimeSequence(runtime).position == 12
    # Other tokens at the same places, and back.
    RuntimeSequence(runtime).feed(tokens(8, seed=4))
    RuntimeSequence(runtime).truncate(12)
    again = RuntimeSequence(runtime).feed(ids[12:]).logits()
    assert np.abs(fresh - again).max() < 0.02
    assert fresh.argmax() == again.argmax()
    RuntimeSequence(runtime).truncate(0)
    assert np.array_equal(RuntimeSequence(runtime).feed(ids).logits(), fresh)


@pytest.mark.thorough
def test_conversation_grows_out_of_a_history_bucket(simulator: Toolchain, tmp_path: Path) -> None:
    model = compile_toy(simulator, tmp_path, "qwen2.5", "int4", 5, context=256)
    ids = tokens(130, seed=6)
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder)
    try:
        with load(model.cpu.folder, engine="cpu") as cpu:
            wanted = RuntimeSequence(cpu.runtime).feed(ids, every_row=True).logits()
        RuntimeSequence(runtime).feed(ids[:126])
        rows = [RuntimeSequence(runtime).feed([token]).logits()[0] for token in ids[126:]]
        # Back into the shorter net: the longer one has left its rows alone.
        RuntimeSequence(runtime).truncate(127)
        rows.append(RuntimeSequence(runtime).feed([ids[127]]).logits()[0])
    finally:
        runtime.close()
    for row, place in zip(rows, (126, 127, 128, 129, 127), strict=True):
        cosine = np.dot(row, wanted[place]) / np.linalg.norm(row) / np.linalg.norm(wanted[place])
        assert cosine >= 0.9999
    nets = StepNets.from_dict(model.bundle.details, "")
    assert [nets.shape(1, place) for place in (127, 129)] == [StepShape(1, 128), StepShape(1, 256)]


def test_every_row(runtime: SimulatedRuntime, model: CompiledModel) -> None:
    ids = tokens(4, seed=5)
    RuntimeSequence(runtime).truncate(0)
    output = RuntimeSequence(runtime).feed(ids, every_row=True)
    rows = output.logits()
    with load(model.cpu.folder, engine="cpu") as cpu:
        wanted = RuntimeSequence(cpu.runtime).feed(ids, every_row=True).logits()
    assert rows.shape == wanted.shape == (4, runtime.vocab_size)
    cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999
    assert output.greedy()[-1] == rows[-1].argmax()
    assert RuntimeSequence(runtime).position == 4


def test_wrong_use_is_refused_and_changes_nothing(runtime: SimulatedRuntime) -> None:
    RuntimeSequence(runtime).truncate(0)
    RuntimeSequence(runtime).feed(tokens(3)).greedy()
    before = runtime.counters
    with pytest.raises(InputError, match="no tokens"):
        RuntimeSequence(runtime).feed([])
    with pytest.raises(InputError, match="within 0 and 319"):
        RuntimeSequence(runtime).feed([320])
    with pytest.raises(ContextLengthError, match="97 tokens, but only 96"):
        RuntimeSequence(runtime).feed(tokens(94))
    with pytest.raises(InputError, match="cannot truncate to position 4: 3 tokens"):
        RuntimeSequence(runtime).truncate(4)
    assert RuntimeSequence(runtime).position == 3
    assert (runtime.counters - before).launches == 0


def test_it_is_a_runtime_and_says_that_it_is_simulated(runtime: SimulatedRuntime) -> None:
    assert isinstance(runtime, Runtime)
    assert runtime.name == "simulator of a BM1684X"
    assert (runtime.context_length, runtime.vocab_size) == (CONTEXT, 320)


def test_interrupted_feed_leaves_no_trace(runtime: SimulatedRuntime) -> None:
    RuntimeSequence(runtime).truncate(0)
    RuntimeSequence(runtime).feed(tokens(5))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def feed() -> None:
        RuntimeSequence(runtime).feed([9])
        # A quick machine may have finished before the interrupt comes.
        signal.pause()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            feed()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    RuntimeSequence(runtime).truncate(5)
    after = RuntimeSequence(runtime).feed([7]).logits()
    RuntimeSequence(runtime).truncate(5)
    assert np.array_equal(RuntimeSequence(runtime).feed([7]).logits(), after)
    assert RuntimeSequence(runtime).position == 6


def test_killed_simulator_is_a_sentence(model: CompiledModel, simulator: Toolchain) -> None:
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder, context_length=16)
    assert runtime.context_length == 16
    os.kill(runtime._worker._child.pid, signal.SIGKILL)
    with pytest.raises(
        DeviceError, match=r"^the simulator was killed \(SIGKILL\), as the system does when memory"
    ):
        RuntimeSequence(runtime).feed([1])
    assert RuntimeSequence(runtime).position == 0
    with pytest.raises(DeviceError, match="after it was closed or had failed"):
        RuntimeSequence(runtime).feed([1])
    runtime.close()
    runtime.close()


def test_engines_that_do_not_fit(model: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    with pytest.raises(DeviceError, match=r"this machine has none.*--engine sim"):
        load(model.bundle.folder, engine="auto")
    with pytest.raises(InputError, match="engine cpu cannot run a compiled model"):
        load(model.bundle.folder, engine="cpu")
    with pytest.raises(InputError, match="engine sim runs compiled models only"):
        load(model.cpu.folder, engine="sim")
    with pytest.raises(InputError, match="between 1 and the bundle's 96"):
        load(model.bundle.folder, engine="sim", context_length=97)


def damaged(model: CompiledModel, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the bundle, changed."""
    shutil.copytree(model.bundle.folder, folder)
    change(folder)
    return folder


def shorten(folder: Path) -> None:
    """Cut the bmodel off, and have the manifest agree."""
    bundle = read_bundle(folder)
    path = folder / "model.bmodel"
    path.write_bytes(path.read_bytes()[:-4096])
    write_manifest(bundle)


def ask_for_less(folder: Path) -> None:
    """A bmodel whose first stage asks for less memory than the others take, as before 28 November 2026."""
    bundle = read_bundle(folder)
    path = folder / "model.bmodel"
    content = bytearray(path.read_bytes())
    start, size = check_bmodel(path)
    (net,) = Table.root(bytes(content[start : start + size])).tables(4)
    for place in net.tables(3)[0].places(3, 14):
        struct.pack_into("<Q", content, start + place, 8)
    path.write_bytes(content)
    write_manifest(bundle)


def swap_stop_ids(folder: Path) -> None:
    """An edit by hand that keeps the size."""
    path = folder / "generation_config.json"
    text = path.read_text()
    digits = next(c for c in text if c.isdigit())
    path.write_text(text.replace(digits, str(9 - int(digits)), 1))


def state(folder: Path, **details: object) -> None:
    """Write a manifest that says something else."""
    bundle = read_bundle(folder)
    write_manifest(replace(bundle, details=bundle.details | details))


def test_damaged_bundles(model: CompiledModel, simulator: Toolchain, tmp_path: Path) -> None:
    cut = damaged(model, tmp_path / "cut", lambda f: os.truncate(f / "model.bmodel", 5000))
    with pytest.raises(BundleError, match=r"model\.bmodel has 5,000 bytes, but the manifest says"):
        load(cut, engine="sim")
    with pytest.raises(BundleError, match="truncated or damaged"):
        load(damaged(model, tmp_path / "short", shorten), engine="sim")
    with pytest.raises(BundleError, match="would overwrite its commands: compile the model again"):
        load(damaged(model, tmp_path / "less", ask_for_less), engine="sim")
    hand = damaged(model, tmp_path / "hand", swap_stop_ids)
    with pytest.raises(BundleError, match="was changed after the bundle was made"):
        load(hand, engine="sim")
    other = damaged(model, tmp_path / "chip", lambda f: state(f, chip="BM1688"))
    with pytest.raises(BundleError, match="compiled for BM1688, and only nets for BM1684X can be run"):
        load(other, engine="sim")
    stages = [{"tokens": 1, "history": 88, "cycles": 1}, {"tokens": 1, "history": 96, "cycles": 1}]
    shapes = damaged(model, tmp_path / "shapes", lambda f: state(f, stages=stages))
    with pytest.raises(BundleError, match="no stage for 1 token with up to 88 cached"):
        load(shapes, engine="sim")
    half = damaged(model, tmp_path / "half", lambda f: state(f, half="bf16"))
    with pytest.raises(BundleError, match="computes in f16, but its manifest says bf16"):
        load(half, engine="sim")
    bundle = read_bundle(damaged(model, tmp_path / "table", lambda _: None))
    (bundle.folder / "embedding.bin").write_bytes(bytes(100))
    with pytest.raises(BundleError, match=r"embedding\.bin has 100 bytes instead of 81,920"):
        SimulatedRuntime(bundle, simulator.simulator_folder)
