"""Matrices of one byte a value, integers or 8-bit floats, with a scale for each block of them."""

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.packing import Packing
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.weights import Grid

TYPES = ("I8", "F8_E4M3")
"""Those of the values."""
SCALES = ("weight_scale_inv", "weight_scale")
FURTHER = (
    *SCALES,
    "weight_zero_point",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "activation_scale",
)
"""Tensors that a matrix may have beside its weight. Those of inputs are of no use: activations stay floats."""


def _e4m3() -> NDArray[np.float32]:
    """Return the 256 values of F8_E4M3 (arXiv 2209.05433, table 1): no infinities, NaN where all bits are set."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    magnitude = np.where(
        exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent.astype(np.float64) - 10)
    )
    magnitude[(byte & 127) == 127] = np.nan
    return np.where(byte < 128, magnitude, -magnitude).astype(np.float32)


_E4M3 = _e4m3()


class ScaledMatrix:
    """weight[n, k] = (value[n, k] - zero[block]) * scale[block].

    Attributes:
        shape: [N, K].
        block: rows and columns that share a scale.
    """

    def __init__(self, source: SafetensorsWeights, plain: str, packing: Packing) -> None:
        """Check a matrix and its scales against each other. Raises CheckpointError."""
        self._source, self._plain, self._packing = source, plain, packing
        self._name, there = f"{plain}.weight", source.names()
        self._type = source.dtype(self._name)
        scale = next((name for part in SCALES if (name := f"{plain}.{part}") in there), None)
        if scale is None:
            raise CheckpointError(
                f"the checkpoint has {self._name} as {self._type}, but not {plain}.{SCALES[0]} nor "
                f"{plain}.{SCALES[1]}: download all of its files"
            )
        if len(source.shape(self._name)) != 2:
            raise CheckpointError(f"tensor {self._name} of type {self._type} must have two dimensions")
        rows, columns = self.shape = source.shape(self._name)
        stored = source.shape(scale)
        # One for all, or one a row, comes with and without a second dimension.
        shape = {0: (1, 1), 1: (*stored, 1)}.get(len(stored), stored)
        stated = packing.block if packing.block and shape not in ((1, 1), (rows, 1)) else (0, 0)
        sides = (stated[0] if shape[0] != 1 else rows, stated[1] if shape[1] != 1 else columns)
        if not all(sides) and all(shape) and rows % shape[0] == 0 and columns % shape[1] == 0:
            sides = (rows // shape[0], columns // shape[1])
        if len(shape) != 2 or not all(sides) or shape != (-(-rows // sides[0]), -(-columns // sides[1])):
            raise CheckpointError(
                f"tensor {scale} has shape {list(stored)}, which does not fit {self._name} of shape "
                f"{list(self.shape)}" + (f" in blocks of {list(packing.block)}" if packing.block else "")
            )
        self.block = sides
        self._scales = source.read(scale).reshape(shape)
        self._zeros = np.zeros(shape, np.int64)
        zero = f"{plain}.weight_zero_point"
        if self._type == "I8" and zero in there:  # those of floats are zeros
            if source.shape(zero) != stored:
                raise CheckpointError(
                    f"tensor {zero} has another shape than {scale}: download the model again"
                )
            self._zeros = source.read_integers(zero).reshape(shape)

    def __str__(self) -> str:
        kind = "int8" if self._type == "I8" else self._type
        rows, columns = self.block
        return f"{self._packing.title} {kind}" + (f" blocks {rows}x{columns}" if rows > 1 else "")

    @property
    def grid(self) -> tuple[int, int] | None:
        """Bits and group size of a grid that holds the matrix as it is; None: its values are floats."""
        fits = self._type == "I8" and self.shape[1] % self.block[1] == 0
        return (8, self.block[1]) if fits else None

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows [start, stop) as float32 [stop - start, K]."""
        raw = self._source.read_bytes(self._name, start, stop)
        values = raw.view(np.int8).astype(np.float32) if self._type == "I8" else _E4M3[raw]
        rows, columns = np.arange(start, stop) // self.block[0], np.arange(self.shape[1]) // self.block[1]
        if self._zeros.any():
            values -= self._zeros[rows].astype(np.float32)[:, columns]
        values *= self._scales[rows][:, columns]
        return values

    def read_grid(self, start: int, stop: int) -> Grid:
        """Read those rows as the grid that `grid` names; scales are rounded to float16, as the chip has them."""
        raw = self._source.read_bytes(self._name, start, stop)
        rows = np.arange(start, stop) // self.block[0]
        return Grid(
            raw ^ np.uint8(128),  # from -128 to 127 become 0 to 255
            self._scales[rows].astype(np.float16).astype(np.float32),
            (self._zeros[rows] + 128).astype(np.uint8),
            8,
            self.block[1],
        )
