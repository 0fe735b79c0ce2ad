"""The small inputs of a stage, written to the device in one copy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.model import Port
from bmqwen.runtime.bmrt.structs import DeviceMem

# A copy call costs the chip's host about as long as 64 KiB take: so much may lie unused between two inputs.
LARGEST_GAP = 64 << 10
ALIGNMENT = 128


class InputBlock:
    """Host arrays for some inputs of a stage, and the device memory that one `write` brings them to.

    Where the inputs lie close together in the stage's own memory, that is it. Else it is memory of our own, from
    which the device itself fetches them: cheaper for the host than a call for each.

    Attributes:
        arrays: what is to be written, by the input's name; halves as uint16.
        memory: where the inputs are for a launch, by name.
        own: it is memory of our own.
    """

    def __init__(self, device: Device, ports: Sequence[Port], forbidden: Sequence[tuple[int, int]]) -> None:
        """Lay the block out.

        Args:
            device: where.
            ports: the inputs.
            forbidden: address ranges (start, end) that hold something else and must not be written to.
        """
        start = min(port.memory.address for port in ports)
        end = max(port.memory.address + port.nbytes for port in ports)
        unused = end - start - sum(port.nbytes for port in ports)
        clear = all(end <= first or last <= start for first, last in forbidden)
        self.own = unused > LARGEST_GAP or not clear
        if self.own:
            offsets, size = [], 0
            for port in ports:
                offsets.append(size)
                size += -(-port.nbytes // ALIGNMENT) * ALIGNMENT
            self._block = device.allocate(size)
        else:
            offsets, size = [port.memory.address - start for port in ports], end - start
            first = DeviceMem.from_buffer_copy(min(ports, key=lambda port: port.memory.address).memory.mem)
            first.size = size
            self._block = DeviceMemory(device, first, owned=False)
        self._bytes: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.arrays: dict[str, NDArray[Any]] = {}
        self.memory: dict[str, DeviceMemory] = {}
        for port, offset in zip(ports, offsets, strict=True):
            dtype = np.dtype(np.uint16) if port.dtype == np.float16 else port.dtype
            piece = self._bytes[offset : offset + port.nbytes]
            self.arrays[port.name] = piece.view(dtype).reshape(port.shape)
            self.memory[port.name] = self._block.view(offset, port.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes that `write` copies."""
        return self._bytes.nbytes

    def write(self) -> None:
        """Copy everything to the device."""
        self._block.write(self._bytes)
