"""Weights of a quantised checkpoint: read lazily, on just the grid that is stored where that is one of ours."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.packing import Packing
from bmqwen.util.text import counted
from bmqwen.weights import coded, scaled
from bmqwen.weights.coded import CodedMatrix, Codes
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.scaled import ScaledMatrix
from bmqwen.weights.weights import Grid, require_finite, require_rows

# Scales of a quantised KV cache: ours holds floats.
_CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point")


class PackedWeights:
    """Weights and a `GridSource`: a matrix X.weight is stored in parts, as a `Packing` says. Close it after use.

    Attributes:
        packing: how they are stored.
        stated_precision: what most matrices are stored as, for people.
    """

    def __init__(
        self, file: SafetensorsWeights, packing: Packing, expected: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Find the packed matrices in `file`, which is closed with these weights.

        Args:
            file: the stored tensors.
            packing: how they are packed.
            expected: shapes of the tensors that the model demands. A bias beyond these may be stored if it is zero.

        Raises:
            CheckpointError: parts that are missing or do not fit together; no matrix is packed.
        """
        self._file, self.packing, stored = file, packing, file.names()
        self._matrices: dict[str, CodedMatrix | ScaledMatrix] = {}
        dropped = {name for name in stored if name.endswith(_CACHE_SCALES)}
        for plain in self._packed():
            name, bias = f"{plain}.weight", f"{plain}.bias"
            if packing.layout == "scaled":
                self._matrices[name] = ScaledMatrix(file, plain, packing)
                parts: tuple[str, ...] = scaled.FURTHER
            else:
                self._matrices[name] = CodedMatrix(file, plain, packing, expected.get(name, ()))
                parts = (*coded.PARTS[packing.layout], *coded.FURTHER[packing.layout])
                if name in stored:
                    raise CheckpointError(
                        f"{file.path} has {plain} twice, packed and as {name}: download the model again"
                    )
            dropped |= {f"{plain}.{part}" for part in parts} & stored
            if bias in stored and bias not in expected and not file.read(bias).any():
                dropped.add(bias)
        if not self._matrices:
            raise CheckpointError(
                f"{file.path} holds no weights that are stored as its configuration says ({packing}): download all "
                "files of one model, or remove quantization_config if the weights are plain"
            )
        kinds = Counter(str(matrix) for matrix in self._matrices.values())
        self.stated_precision: str | None = kinds.most_common(1)[0][0]
        self._names = (stored - dropped) | self._matrices.keys()
        self._codes = lru_cache(maxsize=4)(self._load)

    @property
    def bytes_on_disk(self) -> int:
        """Size of all files of weights."""
        return self._file.bytes_on_disk

    @property
    def remarks(self) -> list[str]:
        """What a user should know of how the weights are read."""
        matrices = list(self._matrices.values())
        apart = sum(isinstance(m, CodedMatrix) and m.order is not None for m in matrices)
        others = sum(m.grid is None for m in matrices) - apart
        found = []
        why = {"in the order of activations (desc_act)": apart, f"as {self.stated_precision}": others}
        for stored, count in why.items():
            if count:
                found.append(
                    f"{counted(count, 'tensor')} stored {stored}, which no grid of a net holds: dequantised, and "
                    "rounded again unless --quant is f16 or f32"
                )
        if any(isinstance(m, CodedMatrix) and m.relabelled for m in matrices):
            said, read = ("gptq", "gptq_v2") if self.packing.zero_offset else ("gptq_v2", "gptq")
            found.append(f"labelled {said}, but its zero points are those of {read} and are read as such")
        return found

    def names(self) -> frozenset[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._matrices[name].shape if name in self._matrices else self._file.shape(name)

    def dtype(self, name: str) -> str:
        """Return what a tensor is stored as, for people."""
        return str(self._matrices[name]) if name in self._matrices else self._file.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        if name in self._matrices:
            return self.read_rows(name, 0, self.shape(name)[0])
        return self._file.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._file.read_rows(name, start, stop)
        require_rows(name, matrix.shape, start, stop)
        if isinstance(matrix, CodedMatrix):
            rows = matrix.read_rows(self._codes(name), start, stop)
        else:
            rows = matrix.read_rows(start, stop)
        return require_finite(rows, name, self._file.path)

    def grid_of(self, name: str) -> tuple[int, int] | None:
        return self._matrices[name].grid if name in self._matrices else None

    def read_grid(self, name: str, start: int, stop: int) -> Grid:
        matrix = self._matrices[name]
        require_rows(name, matrix.shape, start, stop)
        if isinstance(matrix, CodedMatrix):
            return matrix.read_grid(self._codes(name), start, stop)
        return matrix.read_grid(start, stop)

    def close(self) -> None:
        """Close the files. May be called twice."""
        self._codes.cache_clear()
        self._file.close()

    def _packed(self) -> list[str]:
        """What the names of the parts of each packed matrix begin with."""
        stored = self._file.names()
        if self.packing.layout == "scaled":
            found = (n for n in stored if n.endswith(".weight") and self._file.dtype(n) in scaled.TYPES)
            return sorted(name.removesuffix(".weight") for name in found)
        first = f".{coded.PARTS[self.packing.layout][0]}"
        return sorted(name.removesuffix(first) for name in stored if name.endswith(first))

    def _load(self, name: str) -> Codes:
        matrix = self._matrices[name]
        assert isinstance(matrix, CodedMatrix)
        return matrix.load()
