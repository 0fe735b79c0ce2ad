"""Weights of a GPTQ or AWQ checkpoint: read lazily, on just the grid that is stored."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.packing import GROUP_SIZES, Packing
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.weights import Grid, require_rows

WORD = 32
# AWQ: which of eight columns the codes of a word are of, the lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales")


class PackedWeights(SafetensorsWeights):
    """Weights and a `GridSource`: a matrix X.weight is stored as X.qweight, X.qzeros, X.scales."""

    def __init__(self, path: Path, packing: Packing, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Open the files and find the packed matrices.

        Args:
            path: see SafetensorsWeights.
            packing: how they are packed.
            expected: shapes of the tensors that the model demands. A bias beyond these may be stored if it is zero.

        Raises:
            CheckpointError: as SafetensorsWeights, and for parts that are missing, of the wrong shape, or packed in
                an order of activations.
        """
        super().__init__(path)
        self.packing, stored = packing, super().names()
        found = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
        self._packed = {f"{plain}.weight": plain for plain in found}
        self._packings = {plain: self._packing(plain, expected, stored) for plain in found}
        if self._packed:
            self.stated_precision = str(packing)
        known = set(expected)
        dropped = {f"{plain}.{part}" for plain in found for part in (*PARTS, "g_idx")}
        for plain in found:
            self._check(plain, stored)
            bias = f"{plain}.bias"
            if bias in stored and bias not in known and not super().read(bias).any():
                dropped.add(bias)
        self._names = (stored - dropped) | self._packed.keys()
        self._words = lru_cache(maxsize=4)(self._read_words)

    def names(self) -> frozenset[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape(self._packed[name]) if name in self._packed else super().shape(name)

    def dtype(self, name: str) -> str:
        return str(self._packings[self._packed[name]]) if name in self._packed else super().dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        if name in self._packed:
            return self.read_rows(name, 0, self.shape(name)[0])
        return super().read(name)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        if name not in self._packed:
            return super().read_rows(name, start, stop)
        return self.read_grid(name, start, stop).dequantize()

    def grid_of(self, name: str) -> tuple[int, int] | None:
        if name not in self._packed:
            return None
        packing = self._packings[self._packed[name]]
        return packing.bits, packing.group_size

    def read_grid(self, name: str, start: int, stop: int) -> Grid:
        plain = self._packed[name]
        packing = self._packings[plain]
        bits = packing.bits
        require_rows(name, self._shape(plain), start, stop)
        words, packed_zeros, scales = self._words(plain)
        per = WORD // bits
        if packing.method == "gptq":
            codes = _unpack(words[:, start:stop].T, bits)
            zeros = _unpack(packed_zeros, bits)[:, start:stop]
        else:
            first, last = start // per, -(-stop // per)
            columns = slice(start - first * per, stop - first * per)
            codes = _unpack_awq(words[:, first:last], bits)[:, columns].T
            zeros = _unpack_awq(packed_zeros[:, first:last], bits)[:, columns]
        shifted = zeros.T.astype(np.int64) + packing.zero_offset
        if (shifted >= 1 << bits).any():
            raise CheckpointError(
                f"{name} has a zero point of {1 << bits}, which {bits} bits cannot hold: "
                "use the checkpoint that is not quantised"
            )
        return Grid(
            np.ascontiguousarray(codes, np.uint8),
            np.ascontiguousarray(scales[:, start:stop].T, np.float32),
            np.ascontiguousarray(shifted, np.uint8),
            bits,
            packing.group_size,
        )

    def close(self) -> None:
        self._words.cache_clear()
        super().close()

    def _shape(self, plain: str) -> tuple[int, int]:
        """[N, K] of a packed matrix."""
        rows, columns = self.shape(f"{plain}.qweight")
        per = WORD // self._packings[plain].bits
        return (columns, rows * per) if self.packing.method == "gptq" else (columns * per, rows)

    def _packing(
        self, plain: str, expected: Mapping[str, tuple[int, ...]], stored: frozenset[str]
    ) -> Packing:
        """Return how a matrix is packed: where bits are mixed, its shapes say it."""
        shape, scales = expected.get(f"{plain}.weight", ()), f"{plain}.scales"
        if not self.packing.mixed or len(shape) != 2 or scales not in stored:
            return self.packing
        bits, groups = WORD * self.shape(f"{plain}.qweight")[0] // shape[1], self.shape(scales)[0]
        size = shape[1] // max(groups, 1)
        if bits not in (4, 8) or size not in GROUP_SIZES:
            raise CheckpointError(
                f"{plain} is packed in {bits} bits and groups of {size}, which is unsupported: use 4 or 8 bits and "
                f"groups of {', '.join(map(str, GROUP_SIZES))}"
            )
        return replace(self.packing, bits=bits, group_size=size)

    def _check(self, plain: str, stored: frozenset[str]) -> None:
        """Raise CheckpointError unless all parts of a matrix fit together."""
        missing = [part for part in PARTS if f"{plain}.{part}" not in stored]
        if missing:
            raise CheckpointError(f"the checkpoint has {plain}.qweight, but not {plain}.{missing[0]}")
        if len(self.shape(f"{plain}.qweight")) != 2:
            raise CheckpointError(f"tensor {plain}.qweight must have two dimensions")
        rows, columns = self._shape(plain)
        size, per = self._packings[plain].group_size, WORD // self._packings[plain].bits
        wanted = {"qzeros": (columns // size, rows // per), "scales": (columns // size, rows)}
        for part, shape in wanted.items():
            found = self.shape(f"{plain}.{part}")
            if columns % size or rows % per or found != shape:
                raise CheckpointError(
                    f"tensor {plain}.{part} has shape {list(found)}, but the matrix {[rows, columns]} in groups of "
                    f"{size} demands {list(shape)}"
                )
        index = f"{plain}.g_idx"
        if index in stored:
            groups = self.read_words(index)
            if groups.shape != (columns,) or (groups != np.arange(columns) // size).any():
                raise CheckpointError(
                    f"{plain} was quantised in the order of activations (desc_act), which the chip's grid cannot "
                    "hold: use a checkpoint made without it, or the one that is not quantised"
                )

    def _read_words(self, plain: str) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        words, zeros = (self.read_words(f"{plain}.{part}") for part in ("qweight", "qzeros"))
        scales = self.read(f"{plain}.scales")
        if self.dtype(f"{plain}.scales") != "F16":
            # What float16 does not hold is rounded to it, as the chip does.
            scales = scales.astype(np.float16).astype(np.float32)
        return words, zeros, scales


def _unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Codes of words [r, c] along the last axis, the lowest bits first: [r, c * 32 / bits]."""
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)
    codes = (words[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(words.shape[0], -1)


def _unpack_awq(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """As `_unpack`, the codes of a word in AWQ's order."""
    codes = _unpack(words, bits).reshape(words.shape[0], -1, WORD // bits)
    return codes[..., np.argsort(AWQ_ORDER)].reshape(words.shape[0], -1)
