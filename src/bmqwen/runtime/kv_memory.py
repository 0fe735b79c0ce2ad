"""Host memory for the keys and values of several sequences, as large as what is in it."""

import contextlib
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import DeviceError
from bmqwen.model.config import ModelConfig
from bmqwen.util.text import size_text

# So many unused rows are given back to the system.
RELEASE = 512
_FLAGS = {} if sys.platform == "win32" else {"flags": mmap.MAP_SHARED | 0x4000}  # MAP_NORESERVE of Linux


def sequence_bytes(config: ModelConfig, rows: int) -> int:
    """Bytes of the keys and values of one sequence of so many tokens, float32."""
    return 8 * len(config.kv_layers) * config.num_key_value_heads * config.head_dim * rows


class KvMemory:
    """Rows of keys and values in places, each with room for one sequence of any length up to `rows`.

    The system gives a page of memory when a row in it is first written, so a long context costs nothing while it is not
    used. (Shared memory, which nothing else maps: some systems give private memory in pages of 2 MB.)

    Attributes:
        rows: float32 [2 * layers with a KV cache, places, kv_heads, rows, head_dim], a layer's keys before its values.
    """

    def __init__(self, config: ModelConfig, places: int, rows: int) -> None:
        """Raises DeviceError if the system refuses so much address space."""
        shape = (2 * len(config.kv_layers), places, config.num_key_value_heads, rows, config.head_dim)
        nbytes = 4 * int(np.prod(shape, dtype=np.int64))
        try:
            self._memory = mmap.mmap(-1, nbytes, **_FLAGS)
        except (OSError, ValueError, OverflowError) as error:
            raise DeviceError(
                f"the system refuses {size_text(nbytes)} of addresses for {places} sequences of {rows:,} tokens: "
                "choose a shorter --context or fewer --sequences"
            ) from error
        self.rows: NDArray[np.float32] = np.frombuffer(self._memory, np.float32).reshape(shape)
        self._used = [0] * places

    def copy(self, place: int, count: int) -> NDArray[np.float32]:
        """Return the first `count` rows of a place: [2 * layers, kv_heads, count, head_dim]."""
        return self.rows[:, place, :, :count].copy()

    def write(self, place: int, rows: NDArray[Any]) -> None:
        """Put rows, as `copy` returns them, in the place of the first ones."""
        self.rows[:, place, :, : rows.shape[2]] = rows
        self.use(place, rows.shape[2])

    def swap(self, one: int, count: int, other: int, other_count: int) -> None:
        """Exchange the first `count` rows of a place with the first `other_count` of another."""
        kept = self.copy(one, count)
        self.write(one, self.rows[:, other, :, :other_count])
        self.write(other, kept)
        self.release(one, other_count)
        self.release(other, count)

    def use(self, place: int, count: int) -> None:
        """Note that so many rows of a place may be written."""
        self._used[place] = max(self._used[place], count)

    def release(self, place: int, count: int) -> None:
        """Give the memory of rows beyond `count` back, if it is much."""
        if self._used[place] - count < RELEASE or not hasattr(mmap, "MADV_REMOVE"):
            return
        layers, _, heads, rows, width = self.rows.shape
        page, row = mmap.PAGESIZE, 4 * width
        for layer in range(layers):
            for head in range(heads):
                start = ((layer * self.rows.shape[1] + place) * heads + head) * rows * row
                first = -(-(start + count * row) // page) * page
                last = (start + self._used[place] * row) // page * page
                if first < last:
                    # Where it cannot, the memory is used again by the next conversation.
                    with contextlib.suppress(OSError):
                        self._memory.madvise(mmap.MADV_REMOVE, first, last - first)
        self._used[place] = count
