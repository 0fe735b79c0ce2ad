"""Device memory, as runtimes of bmodels use it."""

from typing import Any, Protocol

from numpy.typing import NDArray


class Memory(Protocol):
    """A piece of device memory. Offsets and sizes are bytes; what lies outside of it is a DeviceError."""

    @property
    def size(self) -> int:
        """Bytes."""

    def view(self, offset: int, size: int) -> "Memory":
        """A part of it."""

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        """Copy an array to the device."""

    def read(self, array: NDArray[Any], offset: int = 0) -> None:
        """Fill a contiguous array from the device."""
