"""What every source of weights offers, and the checks that each of them makes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.config import ModelConfig


class Weights(Protocol):
    """Tensors by their Hugging Face names, read one at a time.

    Names are those of a `Qwen2ForCausalLM` state dict ("model.layers.0.self_attn.q_proj.weight"),
    shapes those of PyTorch ([out_features, in_features]).
    """

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it. Raises CheckpointError for an unknown name."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Read a tensor as float32, a fresh array. Raises CheckpointError if it is damaged or not finite."""

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows [start, stop) of a two-dimensional tensor, so that a large table needs no large array."""


@dataclass(frozen=True, slots=True)
class Grid:
    """weight[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g], with g = k // group_size.

    Attributes:
        codes: uint8 [N, K], each below 2 ** bits.
        scales: float32 [N, G], G = ceil(K / group_size); values that float16 holds exactly, as the chip stores them.
        zeros: uint8 [N, G], each below 2 ** bits.
        bits: 4 or 8.
        group_size: columns that share a scale; the last group may be shorter.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]
    bits: int
    group_size: int

    def dequantize(self) -> NDArray[np.float32]:
        """Return the float32 weights [N, K] that the grid stands for."""
        columns = self.codes.shape[1]
        zeros = np.repeat(self.zeros.astype(np.float32), self.group_size, axis=1)[:, :columns]
        scales = np.repeat(self.scales, self.group_size, axis=1)[:, :columns]
        weights: NDArray[np.float32] = (self.codes.astype(np.float32) - zeros) * scales
        return weights

    def regrouped(self, group_size: int) -> "Grid":
        """Return the same with shorter groups, which divide the present ones."""
        parts = self.group_size // group_size
        scales, zeros = np.repeat(self.scales, parts, axis=1), np.repeat(self.zeros, parts, axis=1)
        return Grid(self.codes, scales, zeros, self.bits, group_size)


@runtime_checkable
class GridSource(Protocol):
    """Weights some of which are on a grid already."""

    def grid_of(self, name: str) -> tuple[int, int] | None:
        """Return bits and group size of a weight's stored grid; None: it has none."""

    def read_grid(self, name: str, start: int, stop: int) -> Grid:
        """Read rows [start, stop) of such a weight."""


def require_finite(values: NDArray[np.float32], name: str, path: Path) -> NDArray[np.float32]:
    """Return `values` themselves. Raises CheckpointError, which names the tensor, unless all are finite."""
    # The sum is finite only if no value is NaN or infinite, and needs no array of booleans.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise CheckpointError(f"{path}: tensor {name} holds NaN or infinite values; download the file again")
    return values


def require_rows(name: str, shape: tuple[int, ...], start: int, stop: int) -> int:
    """Return a tensor's columns. Raises CheckpointError unless it is a matrix that has rows [start, stop)."""
    if len(shape) != 2 or not 0 <= start <= stop <= shape[0]:
        raise CheckpointError(f"tensor {name} of shape {list(shape)} has no rows {start} to {stop}")
    return shape[1]


def check_layout(config: ModelConfig, weights: Weights, path: Path, source: str) -> None:
    """Raise CheckpointError unless `weights` are exactly the tensors that `config` demands.

    `path` is the file of weights and `source` where the configuration comes from, for the message.
    """
    expected = config.network.shapes()
    names = weights.names()
    missing = [name for name in expected if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{path} lacks tensor {missing[0]}{more}, which {source} demands")
    for name, shape in expected.items():
        found = weights.shape(name)
        if found != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(found)}, but {source} demands {list(shape)}"
            )
    for name in sorted(names - expected.keys()):
        # Old exports keep constants of RoPE; a tied head is the embedding table, also where a copy is stored.
        if not name.endswith(".rotary_emb.inv_freq") and name != "lm_head.weight":
            raise CheckpointError(
                f"{path} holds tensor {name[:200]}, which {config.architecture.class_name} in {source} does not have"
            )
