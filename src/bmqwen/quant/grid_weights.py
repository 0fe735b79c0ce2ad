"""A checkpoint as a precision leaves it: float values of the grid that a runtime computes with."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.precision import Precision
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
        """Return the names of all tensors, the head's among them."""
        return self._weights.names() | {HEAD}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._weights.shape(self._source(name))

    def read(self, name: str) -> NDArray[np.float32]:
        """Read a whole tensor."""
        shape = self.shape(name)
        return self.read_rows(name, 0, shape[0]) if len(shape) == 2 else self._weights.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows [start, stop) of a matrix. A grid's groups lie within rows, so the blocks do not matter."""
        form = self._precision.table if name == TABLE else self._precision.of(name)
        if isinstance(form, GridFormat):
            form = replace(form, search=self._search)
        return form.read(self._weights, self._source(name), start, stop)

    def _source(self, name: str) -> str:
        return TABLE if name == HEAD and self._tied else name
