"""The network computed by numpy says what ONNX Runtime says."""

from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.states import state_names
from bmqwen.emit.export import export_onnx
from bmqwen.emit.numpy import NumpyOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import Kind, tiny_config, write_checkpoint


@pytest.mark.parametrize("kind", ["qwen1.5", "qwen2.5", "qwen3", "qwen3.5", "llama"])
def test_logits_and_cache(tmp_path: Path, kind: Kind) -> None:
    config = tiny_config(kind)
    write_checkpoint(tmp_path / "model", config, seed=1)
    ids = np.random.default_rng(0).integers(0, 300, 21).tolist()
    with open_checkpoint(tmp_path / "model") as checkpoint:
        bundle = export_onnx(checkpoint, tmp_path / "cpu", Precision("f32", 32, "f32"))
        ops = NumpyOps(config, WeightBlocks(checkpoint.weights), ids, [4, 20])
        logits = config.network.emit(ops)
    runtime = CpuRuntime(bundle, threads=1)
    wanted = RuntimeSequence(runtime).feed(ids, every_row=True).logits()
    runtime.close()
    assert logits.dtype == np.float32
    assert np.abs(logits - wanted[[4, 20]]).max() < 1e-4
    assert [rows.shape for rows in ops.cache] == [(21, config.num_key_value_heads, config.head_dim)] * (
        2 * len(config.kv_layers)
    )


def test_states_after_any_number_of_tokens(tmp_path: Path) -> None:
    config, stops = tiny_config("qwen3.5", layers=4), (0, 2, 20, 21)
    write_checkpoint(tmp_path / "model", config, seed=1)
    ids = np.random.default_rng(0).integers(0, 300, 21).tolist()
    with open_checkpoint(tmp_path / "model") as checkpoint:
        bundle = export_onnx(checkpoint, tmp_path / "cpu", Precision("f32", 32, "f32"))
        ops = NumpyOps(config, WeightBlocks(checkpoint.weights), ids, [20], stops=stops)
        config.network.emit(ops)
    runtime = CpuRuntime(bundle, threads=1)
    for stop in stops[1:]:
        runtime.truncate(0, 0)
        RuntimeSequence(runtime).feed(ids[:stop])
        saved = runtime.save(0).states[-1].arrays
        for (name, shape), array in zip(state_names(config).items(), saved, strict=True):
            found = ops.states[stop][name]
            assert (1, *found.shape) == array.shape == shape
            assert np.abs(found - array[0]).max() < 1e-4
    runtime.close()
    assert list(ops.states[0]) == list(state_names(config))
    assert not any(array.any() for array in ops.states[0].values())


def test_sequences_side_by_side_do_not_see_each_other(tmp_path: Path) -> None:
    config = tiny_config()
    write_checkpoint(tmp_path / "model", config, seed=1)
    ids = np.random.default_rng(0).integers(0, 300, 21).tolist()
    with open_checkpoint(tmp_path / "model") as checkpoint:
        blocks = WeightBlocks(checkpoint.weights)
        together = config.network.emit(NumpyOps(config, blocks, ids, range(21), [5, 9, 7]))
        apart = [
            config.network.emit(NumpyOps(config, blocks, part, range(len(part))))
            for part in (ids[:5], ids[5:14], ids[14:])
        ]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-5)
