"""A rotated model is the same model, and its matrices are others."""

from pathlib import Path

import numpy as np
import pytest

from bmqwen.calibration.rotation import HEAD, NORM, TABLE, rotated
from bmqwen.emit.numpy import NumpyOps, Rows
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.weights.checkpoint import Checkpoint, open_checkpoint
from support.checkpoints import Kind, tiny_config, write_checkpoint

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def logits(checkpoint: Checkpoint) -> Rows:
    ops = NumpyOps(checkpoint.config, WeightBlocks(checkpoint.weights), TOKENS, range(len(TOKENS)))
    return checkpoint.config.network.emit(ops)


@pytest.mark.parametrize("kind", ["qwen2.5", "qwen1.5", "qwen3", "llama"])
def test_a_rotated_model_computes_the_same(kind: Kind, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(kind), seed=5)
    with open_checkpoint(folder) as checkpoint:
        turned = rotated(checkpoint)
        assert not turned.config.tie_word_embeddings
        expected = logits(checkpoint)
        np.testing.assert_allclose(logits(turned), expected, atol=1e-4 * np.abs(expected).max())
        assert (turned.weights.read(NORM) == 1).all()
        for name in (TABLE, HEAD, "model.layers.0.mlp.down_proj.weight"):
            whole = turned.weights.read(name)
            if name != HEAD:
                assert not np.allclose(whole, checkpoint.weights.read(name))
            np.testing.assert_allclose(turned.weights.read_rows(name, 5, 9), whole[5:9], rtol=0, atol=1e-6)
