"""A weight matrix on a group grid: the only definition of what a quantised weight means."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import InputError


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


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack 4-bit codes [..., K] in pairs, the even column in the low half: [..., ceil(K / 2)]."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], 4), dtype=np.uint8)
