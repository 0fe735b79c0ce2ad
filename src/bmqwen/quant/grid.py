"""A weight matrix on a group grid: the only definition of what a quantised weight means."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import InputError
from bmqwen.weights.packed import GridSource
from bmqwen.weights.weights import Weights


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
        """The float32 weights [N, K] that the grid stands for."""
        columns = self.codes.shape[1]
        zeros = np.repeat(self.zeros.astype(np.float32), self.group_size, axis=1)[:, :columns]
        scales = np.repeat(self.scales, self.group_size, axis=1)[:, :columns]
        weights: NDArray[np.float32] = (self.codes.astype(np.float32) - zeros) * scales
        return weights


def check_group_size(bits: int, group_size: int) -> None:
    """Raise InputError unless both runtimes can hold such a grid."""
    if bits not in (4, 8):
        raise InputError(f"weights of {bits} bits are not supported: choose 4 or 8")
    if group_size not in (16, 32, 64, 128, 256):
        raise InputError(f"group size {group_size} is not supported: choose 16, 32, 64, 128 or 256")


def stored_grid(
    weights: Weights, name: str, start: int, stop: int, bits: int, group_size: int
) -> Grid | None:
    """Rows [start, stop) of a matrix on the grid that the checkpoint brings.

    None: it brings none of these bits, with groups as long or made up of such.
    """
    found = weights.grid_of(name) if isinstance(weights, GridSource) else None
    if not isinstance(weights, GridSource) or not found or found[0] != bits or found[1] % group_size:
        return None
    grid, parts = weights.read_grid(name, start, stop), found[1] // group_size
    scales, zeros = np.repeat(grid.scales, parts, axis=1), np.repeat(grid.zeros, parts, axis=1)
    return Grid(grid.codes, scales, zeros, bits, group_size)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack 4-bit codes [..., K] in pairs, the even column in the low half: [..., ceil(K / 2)]."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], 4), dtype=np.uint8)
