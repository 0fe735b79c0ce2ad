"""Tensors that a file stores otherwise than the network has them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.architecture import Tensor
from bmqwen.model.config import ModelConfig
from bmqwen.weights.weights import Grid, GridSource, Weights, require_rows

# Where a model that also takes pictures has its text.
_TEXT = "model.language_model."


class StoredWeights:
    """A reader's tensors as the network names and shapes them. Keeps the `Weights` protocol.

    Attributes:
        left_aside: how many tensors belong to other parts of the model, such as that for pictures.
    """

    def __init__(self, reader: Weights, config: ModelConfig) -> None:
        """Of a model that also takes pictures, only the text is there."""
        self._reader, self._head_dim = reader, config.head_dim
        there, prefixes = reader.names(), config.architecture.left_aside
        self._tensors = {tensor.name: tensor for tensor in config.network.tensors()}
        self._files = {name: _file_name(tensor, there) for name, tensor in self._tensors.items()}
        taken = set(self._files.values())
        self._others = {name for name in there - taken if not name.startswith(prefixes)}
        self.left_aside = len(there - taken) - len(self._others)

    def names(self) -> frozenset[str]:
        there = self._reader.names()
        return frozenset(name for name, file in self._files.items() if file in there) | self._others

    def shape(self, name: str) -> tuple[int, ...]:
        tensor, shape = self._tensors.get(name), self._reader.shape(self._files.get(name, name))
        return shape if tensor is None or tensor.half is None else (shape[0] // 2, *shape[1:])

    def dtype(self, name: str) -> str:
        """Return the file's own type of a tensor."""
        dtype: str = self._reader.dtype(self._files.get(name, name))  # type: ignore[attr-defined]
        return dtype

    def read(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        if tensor.half is not None:
            return self.read_rows(name, 0, tensor.shape[0])
        values = self._reader.read(self._files[name])
        return values + np.float32(tensor.plus) if tensor.plus else values

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        tensor, file = self._tensors[name], self._files[name]
        if tensor.half is None:
            return self._reader.read_rows(file, start, stop)
        require_rows(name, tensor.shape, start, stop)
        return np.concatenate(
            [self._reader.read_rows(file, a, b) for a, b in self._ranges(tensor, start, stop)]
        )

    def grid_of(self, name: str) -> tuple[int, int] | None:
        """Return bits and group size of a weight's stored grid; None: it has none."""
        plain = not self._tensors[name].plus if name in self._tensors else False
        return (
            self._reader.grid_of(self._files[name])
            if plain and isinstance(self._reader, GridSource)
            else None
        )

    def read_grid(self, name: str, start: int, stop: int) -> Grid:
        """Read rows [start, stop) of such a weight."""
        tensor, file, reader = self._tensors[name], self._files[name], self._reader
        assert isinstance(reader, GridSource)
        if tensor.half is None:
            return reader.read_grid(file, start, stop)
        parts = [reader.read_grid(file, a, b) for a, b in self._ranges(tensor, start, stop)]
        codes, scales, zeros = (
            np.concatenate([getattr(part, key) for part in parts]) for key in ("codes", "scales", "zeros")
        )
        return Grid(codes, scales, zeros, parts[0].bits, parts[0].group_size)

    def _ranges(self, tensor: Tensor, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """Where the file has these rows: it has both halves of one head, then those of the next."""
        dim = self._head_dim
        while start < stop:
            head, row = divmod(start, dim)
            count = min(dim - row, stop - start)
            place = (2 * head + (tensor.half or 0)) * dim + row
            yield place, place + count
            start += count


def _file_name(tensor: Tensor, there: frozenset[str]) -> str:
    """What the file calls a tensor."""
    name = tensor.stored or tensor.name
    bare = name.removeprefix("model.")
    return next((other for other in (_TEXT + bare, bare) if other in there), name)
