"""The nets of a bmodel on a device: started, given their inputs, and read, with one K/V cache; all of it counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.backend import DeviceBackend, Inputs, Launch, Memory

# What a mask adds to the score of a row that must not be seen.
CLOSED = -10000.0


@dataclass(slots=True)
class Counters:
    """Calls and bytes since loading.

    Attributes:
        launches: nets started.
        writes, bytes_in: copies to the device.
        reads, bytes_out: copies from it.
        device_copies, device_bytes: inputs that the device itself copied, being given in memory that is not the net's.
        row_copies, row_bytes: outputs that it wrote to the net's memory first and then copied to their place.
    """

    launches: int = 0
    writes: int = 0
    bytes_in: int = 0
    reads: int = 0
    bytes_out: int = 0
    device_copies: int = 0
    device_bytes: int = 0
    row_copies: int = 0
    row_bytes: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        """Those of two devices."""
        return Counters(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))

    def __sub__(self, earlier: "Counters") -> "Counters":
        """What came since `earlier`."""
        return Counters(*(getattr(self, n) - getattr(earlier, n) for n in self.__slots__))


class DeviceNets:
    """What the nets of both layouts have in common; how they are launched is each one's own.

    Attributes:
        context: most rows of the K/V cache.
        counters: calls and bytes since loading.
    """

    context: int
    # A layer's keys, then its values; shape and type of a row of theirs.
    _cache: Sequence[Memory]
    _row: tuple[int, ...]
    _row_type: type[np.unsignedinteger[Any]]

    def __init__(self, backend: DeviceBackend) -> None:
        self._backend, self.counters = backend, Counters()
        self._pending = False

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of a layer's keys, or of its values."""
        return int(np.prod(self._row)) * np.dtype(self._row_type).itemsize

    def cache_shape(self, count: int) -> tuple[int, ...]:
        """Of `count` rows: [2 * layers, count, ...]."""
        return len(self._cache), count, *self._row

    def read_rows(self, start: int, count: int) -> NDArray[Any]:
        """Return rows of the cache as the device has them, of `cache_shape`: keys before values."""
        rows = np.empty(self.cache_shape(count), self._row_type)
        for memory, part in zip(self._cache, rows, strict=True):
            self._read(memory, part, start * self.row_bytes)
        return rows

    def write_rows(self, start: int, rows: NDArray[Any]) -> None:
        """Replace rows of the cache, given as `read_rows` returns them."""
        self._settle()
        for memory, part in zip(self._cache, rows, strict=True):
            memory.write(part, start * self.row_bytes)
            self.counters.writes += 1
            self.counters.bytes_in += part.nbytes

    def _write(self, inputs: Inputs) -> None:
        inputs.write()
        self.counters.writes += inputs.writes
        self.counters.bytes_in += inputs.nbytes

    def _start(self, launch: Launch, offset: int = 0) -> None:
        self._pending = True
        launch.start(offset)
        self.counters.launches += 1
        self.counters.device_copies += launch.copies
        self.counters.device_bytes += launch.copied_bytes

    def _read(self, memory: Memory, array: NDArray[Any], offset: int = 0) -> None:
        self._settle()
        memory.read(array, offset)
        self.counters.reads += 1
        self.counters.bytes_out += array.nbytes

    def _settle(self) -> None:
        """Wait for the last launch: its inputs may then be overwritten and its outputs read."""
        if self._pending:
            self._backend.synchronize()
            self._pending = False
