"""Weights on their way into a file: read, converted and handed on a block of rows at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.quant.formats import GridFormat
from bmqwen.weights.weights import Grid, Weights

R = TypeVar("R")

# Float32 elements a block: 16 MB, so that a few blocks under way weigh little beside a layer.
BLOCK_ELEMENTS = 4 << 20
WORKERS = 2


class WeightBlocks:
    """Reads matrices of a checkpoint in blocks of rows; conversion runs in threads, order is kept.

    `advance` is called with the number of parameters that were read, for a progress bar.
    """

    def __init__(self, weights: Weights, advance: Callable[[int], None] = lambda _count: None) -> None:
        self.weights = weights
        self._advance = advance

    def vector(self, *names: str) -> NDArray[np.float32]:
        """Read one-dimensional tensors, joined: float32 [sum of lengths]."""
        parts = [self.weights.read(name) for name in names]
        self._advance(sum(p.size for p in parts))
        return np.concatenate(parts)

    def shape(self, names: Sequence[str]) -> tuple[int, int]:
        """Return the shape [N, K] of matrices stacked by rows."""
        shapes = [self.weights.shape(name) for name in names]
        return sum(s[0] for s in shapes), shapes[0][1]

    def floats(self, names: Sequence[str], dtype: type[np.floating]) -> Iterator[NDArray[np.floating]]:
        """Yield blocks of the stacked matrices in a float type."""

        def make(name: str, start: int, stop: int) -> NDArray[np.floating]:
            return self.weights.read_rows(name, start, stop).astype(dtype, copy=False)

        return self._blocks(names, make)

    def grids(self, names: Sequence[str], form: GridFormat) -> Iterator[Grid]:
        """Yield blocks of the stacked matrices on a group grid."""
        return self._blocks(names, lambda name, start, stop: form.grid(self.weights, name, start, stop))

    def _blocks(self, names: Sequence[str], make: Callable[[str, int, int], R]) -> Iterator[R]:
        with ThreadPoolExecutor(WORKERS) as pool:
            pending: deque[tuple[Future[R], int]] = deque()

            def finished() -> R:
                # Counted here and not by the workers: progress is told on the caller's thread only.
                future, size = pending.popleft()
                result = future.result()
                self._advance(size)
                return result

            try:
                for name, start, stop in self._ranges(names):
                    size = (stop - start) * self.weights.shape(name)[1]
                    pending.append((pool.submit(make, name, start, stop), size))
                    if len(pending) > WORKERS:
                        yield finished()
                while pending:
                    yield finished()
            finally:
                for future, _ in pending:
                    future.cancel()

    def _ranges(self, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        for name in names:
            rows, columns = self.weights.shape(name)
            step = max(1, BLOCK_ELEMENTS // columns)
            for start in range(0, rows, step):
                yield name, start, min(start + step, rows)
