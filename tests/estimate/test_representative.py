"""Weights that nobody downloads have the shapes, and the grid, of real ones."""

import numpy as np
import pytest

from bmqwen.estimate.representative import RandomBlocks, RandomWeights
from bmqwen.quant.formats import GridFormat
from support.checkpoints import random_weights, tiny_config


def test_every_tensor_is_there() -> None:
    config = tiny_config()
    made = RandomWeights(config)
    real = random_weights(config)
    assert made.names() == set(real)
    for name, values in real.items():
        assert made.read(name).shape == made.shape(name) == values.shape
        assert np.isfinite(made.read(name)).all()
    name = "model.embed_tokens.weight"
    assert made.read_rows(name, 3, 7).shape == (4, config.hidden_size)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_lie_on_a_grid(bits: int) -> None:
    config = tiny_config()
    name = "model.layers.0.mlp.gate_proj.weight"
    blocks = list(RandomBlocks(config).grids([name, name], GridFormat(bits, (32,))))
    assert sum(len(block.codes) for block in blocks) == 2 * config.intermediate_size
    for block in blocks:
        assert block.codes.shape[1] == config.hidden_size
        assert block.codes.max() < 1 << bits
        assert block.scales.shape == block.zeros.shape == (len(block.codes), config.hidden_size // 32)
