"""The formats of a weight matrix [N, K]: each packs itself for every target and reads itself back as floats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bmqwen.quant import Format
from bmqwen.quant.rounding import quantize, require_scales
from bmqwen.weights.weights import Grid, GridSource, Weights

# 256 steps are fine enough for long groups, and fewer scales are read. Shorter ones where the columns demand it: a
# chip has no groups that are not full.
EIGHT_BIT_GROUPS = (128, 64, 32, 16)


class Part(NamedTuple):
    """A tensor of a packed matrix; they are written in this order, since the codes' blocks bring the others along.

    Attributes:
        name: codes, scales or zero points, as the target calls them.
        type: of its elements: "uint4" (two in a byte), "uint8" or "float32".
        shape: in elements.
        blocks: consecutive parts of its bytes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]


class _Stream:
    """A grid on its way into a file: its codes block by block, which bring scales and zero points along."""

    def __init__(self, grids: Iterable[Grid]) -> None:
        self._grids = grids
        self.scales: list[NDArray[np.float32]] = []
        self.zeros: list[NDArray[np.uint8]] = []

    def codes(self) -> Iterator[NDArray[np.uint8]]:
        for grid in self._grids:
            self.scales.append(grid.scales)
            self.zeros.append(grid.zeros)
            yield grid.codes


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """Values one by one, in half or in single precision."""

    dtype: type[np.floating]

    def read(self, weights: Weights, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows [start, stop) of a matrix as the values that a runtime computes with."""
        rows = weights.read_rows(name, start, stop)
        return rows.astype(self.dtype, copy=False).astype(np.float32, copy=False)

    def file_bytes(self, rows: int, columns: int) -> int:
        """Count the bytes of a matrix in a bundle's file."""
        return rows * columns * np.dtype(self.dtype).itemsize

    def chip_bytes(self, rows: int, columns: int) -> tuple[int, ...]:
        """Count the bytes of each tensor that a matrix is on the chip, which has half precision."""
        return (2 * rows * columns,)


@dataclass(frozen=True, slots=True)
class GridFormat:
    """Codes on a grid whose scale and zero point are those of a group of columns.

    Attributes:
        bits: of a code, 4 or 8.
        group_sizes: columns of a group: the first of these that divides the columns, else the first.
        search: whether each group's range is searched for; without, values are rounded to nearest, for comparison.
    """

    bits: int
    group_sizes: tuple[int, ...]
    search: bool = True

    def group(self, columns: int) -> int:
        """Return the group size of a matrix with that many columns."""
        return next((size for size in self.group_sizes if columns % size == 0), self.group_sizes[0])

    def grid(self, weights: Weights, name: str, start: int, stop: int) -> Grid:
        """Put rows [start, stop) of a matrix on a grid: the checkpoint's own, if it is such a one."""
        size = self.group(weights.shape(name)[1])
        if isinstance(weights, GridSource) and self.keeps(weights, name):
            return weights.read_grid(name, start, stop).regrouped(size)
        return require_scales(
            quantize(weights.read_rows(name, start, stop), self.bits, size, search=self.search), name
        )

    def keeps(self, weights: Weights, name: str) -> bool:
        """Return whether a matrix is on a grid already that this format holds as it is."""
        stored = weights.grid_of(name) if isinstance(weights, GridSource) else None
        if stored is None:
            return False
        bits, long = stored
        return bits == self.bits and long % self.group(weights.shape(name)[1]) == 0

    def read(self, weights: Weights, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows [start, stop) of a matrix as the values that its grid stands for."""
        return self.grid(weights, name, start, stop).dequantize()

    def file_bytes(self, rows: int, columns: int) -> int:
        """Count the bytes of a matrix in a bundle's file: codes, float32 scales, zero points."""
        values = rows * columns
        return values * self.bits // 8 + 5 * (values // self.group(columns))

    def chip_bytes(self, rows: int, columns: int) -> tuple[int, ...]:
        """Count the bytes of codes, scales and zero points on the chip."""
        values, groups = rows * columns, rows * columns // self.group(columns)
        return values * self.bits // 8, 2 * groups, groups

    def for_matmul_nbits(self, grids: Iterable[Grid], rows: int, columns: int) -> list[Part]:
        """Pack it for ONNX Runtime's MatMulNBits: whole groups of bytes, zero points packed row by row."""
        size, stream = self.group(columns), _Stream(grids)
        groups = -(-columns // size)
        filling = ((0, 0), (0, groups * size - columns))
        codes = (self._packed(np.pad(block, filling)) for block in stream.codes())
        zeros = (self._packed(block) for block in stream.zeros)
        return [
            Part("codes", "uint8", (rows, groups, size * self.bits // 8), codes),
            Part("scales", "float32", (rows, groups), stream.scales),
            Part("zeros", "uint8", (rows, -(-groups * self.bits // 8)), zeros),
        ]

    def for_dequantize_linear(self, grids: Iterable[Grid], rows: int, columns: int) -> list[Part]:
        """Pack it for ONNX's DequantizeLinear: 4-bit tensors without regard to rows; every K is even."""
        kind, groups, stream = f"uint{self.bits}", -(-columns // self.group(columns)), _Stream(grids)

        def zeros() -> Iterator[NDArray[np.uint8]]:
            yield self._packed(np.concatenate(stream.zeros).reshape(-1))

        return [
            Part("codes", kind, (rows, columns), map(self._packed, stream.codes())),
            Part("scales", "float32", (rows, groups), stream.scales),
            Part("zeros", kind, (rows, groups), zeros()),
        ]

    def for_a16_matmul(self, grids: Iterable[Grid], rows: int, columns: int) -> list[Part]:
        """Pack it for Top-MLIR's A16MatMul: codes packed, zero points a byte each."""
        groups, stream = columns // self.group(columns), _Stream(grids)
        return [
            Part("qweight", "uint8", (rows, columns * self.bits // 8), map(self._packed, stream.codes())),
            Part("scales", "float32", (rows, groups), stream.scales),
            Part("qzeros", "uint8", (rows, groups), stream.zeros),
        ]

    def _packed(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes [..., K] in bytes."""
        return pack_nibbles(codes) if self.bits == 4 else codes


WeightFormat = FloatFormat | GridFormat


def make_format(name: Format, group_size: int) -> WeightFormat:
    """Return the format that `--quant` names, with the group size of 4-bit grids."""
    formats: dict[Format, WeightFormat] = {
        "f32": FloatFormat(np.float32),
        "f16": FloatFormat(np.float16),
        "int8": GridFormat(8, EIGHT_BIT_GROUPS),
        "int4": GridFormat(4, (group_size,)),
    }
    return formats[name]


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack 4-bit codes [..., K] in pairs, the even column in the low half: [..., ceil(K / 2)]."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], 4), dtype=np.uint8)
