"""The small inputs of a stage, written to the device in one copy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.nets import Port
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.model import own_memory
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

    writes = 1

    def __init__(self, device: Device, ports: Sequence[Port], avoid: Sequence[Port] | None) -> None:
        """Lay the block out.

        Args:
            device: where.
            ports: the inputs.
            avoid: what holds something else there and must not be written to; None: use memory of our own.
        """
        homes = [own_memory(port) for port in ports]
        start = min(home.address for home in homes)
        end = max(home.address + port.nbytes for home, port in zip(homes, ports, strict=True))
        unused = end - start - sum(port.nbytes for port in ports)
        taken = [own_memory(port) for port in avoid or ()]
        clear = all(end <= other.address or other.address + other.size <= start for other in taken)
        self.own = avoid is None or unused > LARGEST_GAP or not clear
        if self.own:
            offsets, size = [], 0
            for port in ports:
                offsets.append(size)
                size += -(-port.nbytes // ALIGNMENT) * ALIGNMENT
            self._block = device.allocate(size)
        else:
            offsets, size = [home.address - start for home in homes], end - start
            first = DeviceMem.from_buffer_copy(min(homes, key=lambda home: home.address).mem)
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
