"""An architecture is a class and a line in the registry; the emitters fuse only what they recognise."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from bmqwen.emit.export import export_onnx
from bmqwen.emit.numpy import NumpyOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model import registry
from bmqwen.model.llama import Llama
from bmqwen.model.ops import Ops
from bmqwen.model.qwen3 import Qwen3
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import Kind, tiny_config, write_checkpoint

T = TypeVar("T")
H = TypeVar("H")
FLOAT = Precision("f32", 32, "f32")


class Positionless(Llama):
    """Llama without any rotation."""

    class_name = "PositionlessForCausalLM"
    model_type = "positionless"

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit it without `rope`."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        return ops.linear(ops.attend(ops.heads(qkv, layer)), f"{place}.o_proj")


class NormedLate(Qwen3):
    """Qwen3 with the head norms after the rotation."""

    class_name = "NormedLateForCausalLM"
    model_type = "normed_late"

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit it in the order that GroupQueryAttention's own rotation cannot compute."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        heads = ops.head_norm(ops.rope(ops.heads(qkv, layer)), f"{place}.q_norm", f"{place}.k_norm")
        return ops.linear(ops.attend(heads), f"{place}.o_proj")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are known."""
    monkeypatch.setattr(registry, "ARCHITECTURES", (*registry.ARCHITECTURES, Positionless, NormedLate))


def folder_of(architecture: type[Llama | Qwen3], kind: Kind, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", replace(tiny_config(kind), architecture=architecture), seed=2)


def test_attention_that_does_not_rotate(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 21).tolist()
    with open_checkpoint(folder_of(Positionless, "llama", tmp_path)) as checkpoint:
        assert checkpoint.config.architecture is Positionless
        bundle = export_onnx(checkpoint, tmp_path / "cpu", FLOAT)
        blocks = WeightBlocks(checkpoint.weights)
        expected = checkpoint.config.network.emit(NumpyOps(checkpoint.config, blocks, ids, [20]))
        rotated = replace(checkpoint.config, architecture=Llama)
        other = rotated.network.emit(NumpyOps(rotated, blocks, ids, [20]))
    runtime = CpuRuntime(bundle, threads=1)
    logits = RuntimeSequence(runtime).feed(ids).logits()
    runtime.close()
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(other - expected).max() > 0.01


def test_what_the_fast_dialect_cannot_fuse_is_no_silent_mistake(tmp_path: Path) -> None:
    with open_checkpoint(folder_of(NormedLate, "qwen3", tmp_path)) as checkpoint:
        with pytest.raises(NotImplementedError, match="head norms after the rotation"):
            export_onnx(checkpoint, tmp_path / "cpu", FLOAT)
        export_onnx(checkpoint, tmp_path / "plain", FLOAT, plain=True)
