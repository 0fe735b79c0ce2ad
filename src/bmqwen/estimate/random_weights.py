"""Weights of a model that nobody has to download: a net's timing does not depend on their values."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bmqwen.emit.weight_blocks import BLOCK_ELEMENTS, WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.quant.grid import Grid

NOISE = 1 << 20


class RandomWeights:
    """A `bmqwen.weights.weights.Weights` of a configuration, small numbers that repeat."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = config.network.shapes()
        self._noise = np.random.default_rng(1).standard_normal(NOISE, dtype=np.float32) / 64

    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def read(self, name: str) -> NDArray[np.float32]:
        """A whole tensor."""
        return np.resize(self._noise, self._shapes[name])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of a matrix."""
        return np.resize(self._noise, (stop - start, self._shapes[name][1]))


class RandomBlocks(WeightBlocks):
    """Random weights on their way into a file; those on a grid are made there, without the search for good ranges."""

    def __init__(self, config: ModelConfig) -> None:
        """Of the tensors that `config` demands."""
        super().__init__(RandomWeights(config))
        self._codes = np.random.default_rng(2).integers(0, 256, NOISE, np.uint8)

    def grids(self, names: Sequence[str], bits: int, group_size: int) -> Iterator[Grid]:
        """Blocks of the stacked matrices on a grid of random codes."""
        for name in names:
            rows, columns = self.weights.shape(name)
            step = max(1, BLOCK_ELEMENTS // columns)
            for start in range(0, rows, step):
                shape = (min(step, rows - start), columns // group_size)
                codes = np.resize(self._codes, (shape[0], columns)) & np.uint8((1 << bits) - 1)
                scales, zeros = np.full(shape, 2.0**-9, np.float32), np.full(shape, 1 << bits - 1, np.uint8)
                yield Grid(codes, scales, zeros, bits, group_size)
