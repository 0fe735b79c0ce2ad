"""What every source of weights offers, whatever its file format."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Weights(Protocol):
    """Tensors by their Hugging Face names, read one at a time.

    Names are those of a `Qwen2ForCausalLM` state dict ("model.layers.0.self_attn.q_proj.weight"),
    shapes those of PyTorch ([out_features, in_features]).
    """

    def names(self) -> frozenset[str]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it. Raises CheckpointError for an unknown name."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32, a fresh array. Raises CheckpointError if it is damaged or not finite."""

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of a two-dimensional tensor, so that a large table needs no large array."""
