"""Matrices whose codes lie in 32-bit words: GPTQ's layout, AWQ's, and compressed-tensors' packed one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.packing import Packing
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.weights import Grid

WORD = 32
# AWQ: which of eight columns the codes of a word are of, the lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = {
    "gptq": ("qweight", "qzeros", "scales"),
    "awq": ("qweight", "qzeros", "scales"),
    "compressed": ("weight_packed", "weight_scale"),
}
FURTHER = {
    "gptq": ("g_idx",),
    "awq": (),
    "compressed": ("weight_zero_point", "weight_shape", "weight_g_idx", "input_scale", "output_scale"),
}
"""Tensors that a matrix may have beside its parts."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix [N, K] in memory.

    Attributes:
        rows: unpacks rows [start, stop) of the codes: uint8 [stop - start, K].
        scales: float32 [N, G].
        zeros: uint8 [N, G].
    """

    rows: Callable[[int, int], NDArray[np.uint8]]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]


class CodedMatrix:
    """weight[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g], g being a column's group.

    Attributes:
        shape: [N, K].
        bits: of a code.
        group_size: columns of a group; K where there is but one.
        order: the group of each column, int64 [K]; None: k // group_size.
        relabelled: whether its zero points are of another convention than is stated.
    """

    def __init__(
        self, source: SafetensorsWeights, plain: str, packing: Packing, shape: tuple[int, ...]
    ) -> None:
        """Check the parts of a matrix, whose names begin with `plain`, against each other.

        Args:
            source: the file's tensors.
            plain: what their names begin with.
            packing: how they are stored.
            shape: what the model demands; () where that is not known.

        Raises:
            CheckpointError: parts are missing or do not fit together.
        """
        self._source, self._plain, self._packing = source, plain, packing
        there, layout = source.names(), packing.layout
        missing = [part for part in PARTS[layout] if f"{plain}.{part}" not in there]
        if missing:
            raise CheckpointError(
                f"the checkpoint has {plain}.{PARTS[layout][0]}, but not {plain}.{missing[0]}: download all its files"
            )
        codes = self._shape(PARTS[layout][0])
        if len(codes) != 2 or not all(codes):
            raise CheckpointError(f"tensor {plain}.{PARTS[layout][0]} must have two dimensions")
        self.bits = self._find_bits(codes, shape)
        per = WORD / self.bits
        # Words go along k in GPTQ's and compressed-tensors' layouts.
        sizes = {
            "gptq": (codes[1], int(codes[0] * per)),
            "awq": (int(codes[1] * per), codes[0]),
            "compressed": (codes[0], int(codes[1] * per)),
        }
        self.shape = sizes[layout]
        scales = self._shape(PARTS[layout][-1])
        packed = self.shape if layout == "gptq" else self.shape[:1] if layout == "awq" else self.shape[1:]
        if len(scales) != 2 or any(size * self.bits % WORD for size in packed):
            raise CheckpointError(
                f"{plain} is a matrix {list(self.shape)} of {self.bits} bits with scales {list(scales)}, which cannot "
                "be: download the model again"
            )
        self.group_size = self._find_group(scales[-1 if layout == "compressed" else 0])
        self._require_parts()
        self.order = self._find_order()
        self.relabelled = layout == "gptq" and self._zero_offset() != packing.zero_offset

    def __str__(self) -> str:
        return self._packing.label(self.bits, self.group_size)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Bits and group size of a grid that holds the matrix as it is; None: columns of a group lie apart."""
        if self.order is not None or self.shape[1] % self.group_size:
            return None
        return (4 if self.bits <= 4 else 8), self.group_size

    def load(self) -> Codes:
        """Read the words into memory. Raises CheckpointError."""
        layout, bits = self._packing.layout, self.bits
        words = self._source.read_words(f"{self._plain}.{PARTS[layout][0]}")
        if layout == "gptq":
            return Codes(
                lambda start, stop: _unpack(words[:, start:stop].T, bits),
                self._scales().T,
                self._gptq_zeros().T,
            )
        if layout == "awq":
            zeros = _unpack_awq(self._source.read_words(f"{self._plain}.qzeros"), bits)
            return Codes(lambda start, stop: _awq_rows(words, start, stop, bits), self._scales().T, zeros.T)
        return Codes(
            lambda start, stop: _unpack(words[start:stop], bits),
            self._scales(),
            self._compressed_zeros(),
        )

    def read_rows(self, codes: Codes, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of what `load` has read as float32 [stop - start, K]."""
        columns = self.shape[1]
        order = np.arange(columns) // self.group_size if self.order is None else self.order
        steps = codes.rows(start, stop).astype(np.float32)
        steps -= codes.zeros[start:stop].astype(np.float32)[:, order]
        steps *= codes.scales[start:stop][:, order]
        return steps

    def read_grid(self, codes: Codes, start: int, stop: int) -> Grid:
        """Return those rows as the grid that `grid` names; scales are rounded to float16, as the chip has them."""
        assert self.grid is not None
        scales = codes.scales[start:stop].astype(np.float16).astype(np.float32)
        return Grid(
            np.ascontiguousarray(codes.rows(start, stop)),
            np.ascontiguousarray(scales),
            np.ascontiguousarray(codes.zeros[start:stop]),
            *self.grid,
        )

    def _shape(self, part: str) -> tuple[int, ...]:
        return self._source.shape(f"{self._plain}.{part}")

    def _find_bits(self, codes: tuple[int, ...], shape: tuple[int, ...]) -> int:
        """Return the bits of a code: where they are not stated or mixed, the shapes say it."""
        packing = self._packing
        # Which axis of the words goes along which one of the matrix.
        place, whole = {"gptq": (0, 1), "awq": (1, 0), "compressed": (1, 1)}[packing.layout]
        if packing.layout == "compressed" and f"{self._plain}.weight_shape" in self._source.names():
            stored = tuple(int(size) for size in self._source.read_integers(f"{self._plain}.weight_shape"))
            if (shape and stored != shape) or len(stored) != 2 or min(stored) < 1:
                raise CheckpointError(
                    f"{self._plain}.weight_shape says {list(stored)}, but the configuration demands {list(shape)}"
                )
            shape = stored
        if packing.bits and not (packing.mixed and len(shape) == 2):
            return packing.bits
        bits = WORD * codes[place] / shape[whole] if len(shape) == 2 else 0
        possible = (
            (4,) if packing.layout == "awq" else (4, 8) if packing.layout == "compressed" else range(2, 9)
        )
        if bits not in possible:
            raise CheckpointError(
                f"{self._plain} is packed in {bits:g} bits, which is unsupported: use a checkpoint of "
                f"{', '.join(map(str, possible))} bits"
            )
        return int(bits)

    def _find_group(self, groups: int) -> int:
        """Return the columns of a group."""
        packing, columns = self._packing, self.shape[1]
        if packing.group_size > 0 and not packing.mixed:
            return packing.group_size
        if packing.group_size == -1 and not packing.mixed:
            return columns
        if not groups or columns % groups:
            raise CheckpointError(
                f"{self._plain} has {columns:,} columns and scales for {groups:,} groups, which do not divide them: "
                "use another checkpoint of the model"
            )
        return columns // groups

    def _require_parts(self) -> None:
        """Raise CheckpointError unless zero points and scales have the shapes that the codes demand."""
        rows, columns = self.shape
        packing, wanted = self._packing, -(-columns // self.group_size)
        shapes = {
            "qzeros": (wanted, rows * self.bits // WORD),
            "scales": (wanted, rows),
            "weight_scale": (rows, wanted),
            "weight_zero_point": (-(-rows * self.bits // WORD), wanted),
        }
        parts = [*PARTS[packing.layout][1:]]
        if f"{self._plain}.weight_zero_point" in self._source.names():
            parts.append("weight_zero_point")
        for part in parts:
            found = self._shape(part)
            if found != shapes[part]:
                raise CheckpointError(
                    f"tensor {self._plain}.{part} has shape {list(found)}, but the matrix {[rows, columns]} in groups "
                    f"of {self.group_size} demands {list(shapes[part])}"
                )

    def _find_order(self) -> NDArray[np.int64] | None:
        """Return the group of each column, where they are not in turn."""
        name = f"{self._plain}.{'weight_g_idx' if self._packing.layout == 'compressed' else 'g_idx'}"
        columns = self.shape[1]
        if name not in self._source.names():
            return None
        order = self._source.read_integers(name)
        in_turn = np.arange(columns) // self.group_size
        if order.shape == (columns,) and ((order == in_turn).all() or (order == -1).all()):
            return None
        if order.shape != (columns,) or order.min() < 0 or order.max() > in_turn[-1]:
            raise CheckpointError(
                f"tensor {name} must name one of {in_turn[-1] + 1:,} groups for each of {columns:,} columns; download "
                "it again"
            )
        return order

    def _scales(self) -> NDArray[np.float32]:
        part = "weight_scale" if self._packing.layout == "compressed" else "scales"
        return self._source.read(f"{self._plain}.{part}")

    def _compressed_zeros(self) -> NDArray[np.uint8]:
        name = f"{self._plain}.weight_zero_point"
        if name not in self._source.names():
            return np.full(self._shape("weight_scale"), 1 << (self.bits - 1), np.uint8)
        return _unpack(self._source.read_words(name).T, self.bits)[:, : self.shape[0]].T

    def _gptq_zeros(self) -> NDArray[np.uint8]:
        """Zero points [G, N]."""
        return self._raised(self._source.read_words(f"{self._plain}.qzeros"), self._zero_offset())

    def _raised(self, words: NDArray[np.uint32], offset: int) -> NDArray[np.uint8]:
        if offset and WORD % self.bits == 0:
            # GPTQModel takes one from each code by one subtraction of words, with borrows; so it is undone.
            words = words + np.uint32(sum(1 << shift for shift in range(0, WORD, self.bits)))
            offset = 0
        return (_unpack(words, self.bits) + np.uint8(offset)) & np.uint8((1 << self.bits) - 1)

    def _zero_offset(self) -> int:
        """Return what to add to stored zero points: numbers that leave no doubt count more than what is stated."""
        if self._packing.symmetric:
            stored = _unpack(self._source.read_words(f"{self._plain}.qzeros"), self.bits)
            middle = 1 << (self.bits - 1)
            for offset in (0, 1):
                if (stored == middle - offset).all():
                    return offset
        return self._packing.zero_offset


def _awq_rows(words: NDArray[np.uint32], start: int, stop: int, bits: int) -> NDArray[np.uint8]:
    per = WORD // bits
    first, last = start // per, -(-stop // per)
    return _unpack_awq(words[:, first:last], bits)[:, start - first * per : stop - first * per].T


def _unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Codes of words [r, c] along the last axis, the lowest bits first: [r, c * 32 / bits]; they may span words."""
    rows = words.shape[0]
    if WORD % bits == 0:
        shifts = np.arange(0, WORD, bits, dtype=np.uint32)
        codes = (words[..., None] >> shifts) & np.uint32((1 << bits) - 1)
        return codes.astype(np.uint8).reshape(rows, -1)
    stream = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), axis=-1, bitorder="little")
    return np.packbits(stream.reshape(rows, -1, bits), axis=-1, bitorder="little").reshape(rows, -1)


def _unpack_awq(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """As `_unpack`, the codes of a word in AWQ's order."""
    codes = _unpack(words, bits).reshape(words.shape[0], -1, WORD // bits)
    return codes[..., np.argsort(AWQ_ORDER)].reshape(words.shape[0], -1)
