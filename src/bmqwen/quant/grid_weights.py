"""A checkpoint as a precision leaves it: float values of the grid that a runtime computes with."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import BITS, Precision
from bmqwen.quant.rounding import quantize
from bmqwen.quant.stored import keeps_grid
from bmqwen.weights.weights import Weights

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


class GridWeights:
    """Reads another `Weights` through a precision: matrices as the floats of their grid, f16 ones rounded.

    A tied head has a format of its own, the table another: here they are two tensors, and `config` says so.
    Vectors (norms, biases) are passed on as they are.
    """

    def __init__(
        self, weights: Weights, config: ModelConfig, precision: Precision, *, search: bool = True
    ) -> None:
        """`weights` are those of `config`; without `search` they are rounded to nearest, which nothing runs."""
        self._weights, self._precision, self._search = weights, precision, search
        self._tied = config.tie_word_embeddings
        self.config = replace(config, tie_word_embeddings=False)

    def names(self) -> frozenset[str]:
        """Names of all tensors, the head's among them."""
        return self._weights.names() | {HEAD}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._weights.shape(self._source(name))

    def read(self, name: str) -> NDArray[np.float32]:
        """A whole tensor."""
        return self._through(name, self._weights.read(self._source(name)))

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of a matrix. A grid's groups lie within rows, so the blocks do not matter."""
        return self._through(name, self._weights.read_rows(self._source(name), start, stop))

    def _source(self, name: str) -> str:
        return TABLE if name == HEAD and self._tied else name

    def _through(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if values.ndim < 2:
            return values
        weight = name.removesuffix(".weight")
        form = self._precision.of(weight)
        if name == TABLE and form in BITS:
            form = "f16"
        if form in BITS:
            group = self._precision.group_of(weight, values.shape[1])
            if keeps_grid(self._weights, self._source(name), BITS[form], group):
                return values
            return quantize(values, BITS[form], group, search=self._search).dequantize()
        return values.astype(np.float16).astype(np.float32) if form == "f16" else values
