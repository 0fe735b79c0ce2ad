"""Bmodels in the layout of the vendor's published ones, on the simulator, against the CPU."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import load
from bmqwen.errors import ContextLengthError, DeviceError, InputError
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from support.compiled_models import two_turns
from support.published_bmodel import Variant

pytestmark = pytest.mark.simulator
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
Publish = Callable[[Variant], tuple[Bundle, Path]]


def test_two_turns_say_what_the_cpu_says(simulator: Toolchain, published: Publish, tmp_path: Path) -> None:
    bundle, cpu = published(Variant())
    # As its publisher has it: the file, and a tokenizer beside it.
    loose = tmp_path / "qwen1.5-1.8b_f16_1dev.bmodel"
    for name, place in (("model.bmodel", loose), *((n, tmp_path / n) for n in TOKENIZER)):
        shutil.copy(bundle.folder / name, place)
    on_chip, on_cpu = two_turns(load(loose, engine="sim"), 5), two_turns(load(cpu, engine="cpu"), 5)
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    assert on_chip[1].usage.cached_tokens == on_cpu[1].usage.cached_tokens > 0
    runtime = SimulatedRuntime(bundle, simulator.simulator_folder)
    try:
        assert isinstance(runtime, Runtime)
        check_rows_and_counts(runtime, cpu)
    finally:
        runtime.close()


def check_rows_and_counts(runtime: SimulatedRuntime, export: Path) -> None:
    """Logits at every position, however they were fed; what a token costs; refusals."""
    ids = np.random.default_rng(0).integers(0, 300, 12).tolist()
    with load(export, engine="cpu") as cpu:
        wanted = RuntimeSequence(cpu.runtime).feed(ids, every_row=True).logits()
    rows = RuntimeSequence(runtime).feed(ids[:9], every_row=True).logits()
    before = runtime.counters
    output = RuntimeSequence(runtime).feed(ids[9:10])
    (token,) = output.greedy()
    spent = runtime.counters - before
    # Embedding, two layers, head, greedy_head; ids, position and mask go in one copy, the token comes back.
    assert (spent.launches, spent.writes, spent.reads, spent.bytes_out) == (5, 1, 1, 4)
    rows = np.concatenate(
        [rows, output.logits(), RuntimeSequence(runtime).feed(ids[10:], every_row=True).logits()]
    )
    assert token == rows[9].argmax()
    cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999
    RuntimeSequence(runtime).truncate(4)
    (output,) = RuntimeSequence(runtime).read(ids[4:])
    again = output.logits()[0]
    assert np.abs(again - rows[11]).max() < 0.03
    with pytest.raises(ContextLengthError, match="41 tokens, but only 40"):
        RuntimeSequence(runtime).feed([1] * 29)
    with pytest.raises(InputError, match="within 0 and 319"):
        RuntimeSequence(runtime).feed([320])
    assert RuntimeSequence(runtime).position == 12


@pytest.mark.thorough
def test_bfloat16_without_mask_input_with_a_fused_token(simulator: Toolchain, published: Publish) -> None:
    variant = Variant("BF16", "basic", mask_input=False, fused_token=True, greedy_head=False)
    bundle, cpu = published(variant)
    on_chip = two_turns(load(bundle.folder, engine="sim"), 5)
    on_cpu = two_turns(load(cpu, engine="cpu"), 5)
    assert [answer.token_ids for answer in on_chip] == [answer.token_ids for answer in on_cpu]
    runtime = SimulatedRuntime(bundle, simulator.simulator_folder)
    try:
        output = RuntimeSequence(runtime).feed([5, 6])
        assert 0 <= output.greedy()[0] < 320
        with pytest.raises(DeviceError, match="computes only the most likely token"):
            output.logits()
    finally:
        runtime.close()
