"""A stage launched through libbmrt, and the small inputs that are written before."""

import ctypes as c
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.backend import BFLOAT16, TYPES, Port, Stage, check_fits
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import DeviceMem, Tensor

# A copy call costs the chip's host about as long as 64 KiB take: so much may lie unused between two inputs.
LARGEST_GAP = 64 << 10
ALIGNMENT = 128


class InputBlock:
    """The `Inputs` of a stage, which one copy brings to the device.

    Where the inputs lie close together in the stage's own memory, that is it. Else it is memory of our own, from
    which the device itself fetches them: cheaper for the host than a call for each.
    """

    writes = 1

    def __init__(self, device: Device, ports: Sequence[Port], avoid: Sequence[Port] | None) -> None:
        homes = [own_memory(port) for port in ports]
        start = min(home.address for home in homes)
        end = max(home.address + port.nbytes for home, port in zip(homes, ports, strict=True))
        unused = end - start - sum(port.nbytes for port in ports)
        taken = [own_memory(port) for port in avoid or ()]
        clear = all(end <= other.address or other.address + other.size <= start for other in taken)
        if avoid is None or unused > LARGEST_GAP or not clear:
            *offsets, size = accumulate((-(-p.nbytes // ALIGNMENT) * ALIGNMENT for p in ports), initial=0)
            self._block = device.allocate(size)
        else:
            offsets, size = [home.address - start for home in homes], end - start
            first = DeviceMem.from_buffer_copy(min(homes, key=lambda home: home.address).mem)
            first.size = size
            self._block = DeviceMemory(device, first)
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
        return self._bytes.nbytes

    def write(self) -> None:
        self._block.write(self._bytes)


# An array of bm_tensor_t, seen as the addresses in it.
ADDRESS = np.dtype(
    {
        "names": ["address"],
        "formats": [np.uint64],
        "offsets": [Tensor.device_mem.offset + DeviceMem.address.offset],
        "itemsize": c.sizeof(Tensor),
    }
)


class PreparedLaunch:
    """A `Launch`."""

    def __init__(
        self,
        start: Callable[[Stage, Any, Any], None],
        stage: Stage,
        inputs: Sequence[DeviceMemory],
        outputs: Sequence[DeviceMemory],
        moving: Sequence[int] = (),
    ) -> None:
        """As `DeviceBackend.prepare`; `start` takes a stage and its arrays of bm_tensor_t."""
        self._start, self._stage = start, stage
        self._given = _tensors(stage, "input", stage.inputs, inputs)
        self._taken = _tensors(stage, "output", stage.outputs, outputs)
        # Views and their owner's memory must stay as long as the addresses.
        self._memory = (*inputs, *outputs)
        foreign = [
            port.nbytes
            for port, memory in zip(stage.inputs, inputs, strict=True)
            if memory.address != own_memory(port).address
        ]
        self.copies, self.copied_bytes = len(foreign), sum(foreign)
        self._moving = np.array(moving, np.int64)
        self._addresses = np.frombuffer(self._taken, ADDRESS)["address"]
        self._bases = self._addresses[self._moving].copy()

    def start(self, offset: int = 0) -> None:
        self._addresses[self._moving] = self._bases + np.uint64(offset)
        self._start(self._stage, self._given, self._taken)


def own_memory(port: Port) -> DeviceMemory:
    """Where a stage keeps an input or output."""
    return cast(DeviceMemory, port.memory)


def _tensors(stage: Stage, what: str, ports: tuple[Port, ...], memory: Sequence[DeviceMemory]) -> Any:
    """bm_tensor_t array for one side ("input" or "output") of a launch. Raises DeviceError for memory too small."""
    check_fits(stage, what, ports, memory)
    made = (Tensor * len(ports))()
    for tensor, port, piece in zip(made, ports, memory, strict=True):
        tensor.dtype = TYPES.index(BFLOAT16 if port.bfloat16 else port.dtype.name)
        tensor.shape.num_dims = len(port.shape)
        tensor.shape.dims[: len(port.shape)] = port.shape
        tensor.device_mem = piece.mem
        tensor.st_mode = 0
    return made
