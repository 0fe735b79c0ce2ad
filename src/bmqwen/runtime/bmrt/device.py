"""A device and its memory: handles that close in the right order, once."""

import ctypes as c
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.chip.spec import CHIP_NAMES
from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.backend import check_range
from bmqwen.runtime.bmrt.libraries import DeviceMem, HeapStat, Libraries
from bmqwen.runtime.device_check import opening_device, require_device, require_memory
from bmqwen.util.closing import Closing

STATUS = {
    1: "the device is not ready",
    2: "general failure",
    3: "timeout",
    4: "invalid parameter",
    5: "out of device memory",
    6: "data error",
    7: "busy",
    8: "not supported",
    9: "not supported",
}
# The simulator's variable for its device memory, in hexadecimal, and what it has without.
SIMULATOR_MEMORY = "CMODEL_GLOBAL_MEM_SIZE"
DEFAULT_SIMULATOR_MEMORY = 4 << 30
# What it keeps of that for commands (measured: the first allocation starts there).
SIMULATOR_OVERHEAD = 81 << 20
# bm_device_mem_t holds sizes in 32 bits.
LARGEST = (1 << 32) - 1


class DeviceMemory:
    """A piece of device memory: from `Device.allocate`, a net's own, or a view of either."""

    def __init__(self, device: "Device", mem: DeviceMem) -> None:
        self._device, self._mem, self._open = device, mem, True

    @property
    def size(self) -> int:
        return int(self._mem.size)

    @property
    def address(self) -> int:
        """Device address."""
        return int(self._mem.address)

    @property
    def mem(self) -> DeviceMem:
        """For a call. Raises DeviceError after close."""
        if not self._open:
            raise DeviceError(f"device memory of {self._device} was used after it was closed")
        self._device.handle  # noqa: B018  (raises when the device is closed)
        return self._mem

    def view(self, offset: int, size: int) -> "DeviceMemory":
        """As `Memory.view`: not freed by its close, and not to be used once the owner is closed."""
        check_range(offset, size, self.size)
        part = DeviceMem.from_buffer_copy(self.mem)
        part.address += offset
        part.size = size
        return DeviceMemory(self._device, part)

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        array = np.ascontiguousarray(array)
        check_range(offset, array.nbytes, self.size)
        self._device.call("bm_memcpy_s2d_partial_offset", self.mem, array.ctypes.data, array.nbytes, offset)

    def read(self, array: NDArray[Any], offset: int = 0) -> None:
        check_range(offset, array.nbytes, self.size)
        self._device.call("bm_memcpy_d2s_partial_offset", array.ctypes.data, self.mem, array.nbytes, offset)

    def close(self) -> None:
        """Free it if `Device.allocate` gave it. May be called twice."""
        self._open = False
        if self._device._owned.pop(id(self), None) is not None:
            self._device.libraries.bmlib.bm_free_device(self._device.handle, self._mem)


class Device(Closing):
    """One chip, or the simulator. Closing it closes what was opened on it, the youngest first."""

    def __init__(self, libraries: Libraries, index: int = 0) -> None:
        """Open a device. Raises DeviceError if there is none of that index, or it cannot be opened."""
        self.libraries, self.index = libraries, index
        # Given a wrong index the library ends the process, so it is asked first.
        require_device(index, 1 if libraries.simulated else self.count(libraries))
        self._handle: c.c_void_p | None = None
        self._stack = ExitStack()
        self._owned: dict[int, DeviceMemory] = {}
        self._reserved = 0
        handle = c.c_void_p()
        with opening_device(index):
            self._check("bm_dev_request", libraries.bmlib.bm_dev_request(c.byref(handle), index))
        self._handle = handle

    @staticmethod
    def count(libraries: Libraries) -> int:
        """Devices that the driver knows; 0 without a driver."""
        count = c.c_int(0)
        status = libraries.bmlib.bm_dev_getcount(c.byref(count))
        return count.value if status == 0 else 0

    def __str__(self) -> str:
        return f"{'simulated device' if self.libraries.simulated else 'device'} {self.index}"

    @property
    def handle(self) -> c.c_void_p:
        """For a call. Raises DeviceError after close."""
        if self._handle is None:
            raise DeviceError(f"{self} was used after it was closed")
        return self._handle

    @property
    def chip(self) -> str:
        """The name of the kind of chip."""
        number = c.c_uint()
        self.call("bm_get_chipid", c.byref(number))
        return CHIP_NAMES.get(number.value, f"chip {number.value:#x}")

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of libbmlib with this device's handle. Raises DeviceError that names the call."""
        handle = self.handle
        self._check(name, getattr(self.libraries.bmlib, name)(handle, *arguments))

    def heaps(self) -> list[HeapStat]:
        """The heaps of device memory (an allocation has to fit into one). Empty when the device does not tell."""
        number = c.c_uint()
        if self.libraries.bmlib.bm_get_gmem_total_heap_num(self.handle, c.byref(number)):
            return []
        heaps = [HeapStat() for _ in range(number.value)]
        ask = self.libraries.bmlib.bm_get_gmem_heap_stat_byte_by_id
        return [heap for i, heap in enumerate(heaps) if ask(self.handle, c.byref(heap), i) == 0]

    def free(self) -> int | None:
        """Bytes of device memory that are free; None when the device does not tell."""
        heaps = self.heaps()
        if heaps:
            return sum(int(heap.available) for heap in heaps)
        if self.libraries.simulated:
            total = int(os.environ.get(SIMULATOR_MEMORY, hex(DEFAULT_SIMULATOR_MEMORY)), 16)
            return total - SIMULATOR_OVERHEAD - self._reserved - self.allocated()
        return None

    def used(self) -> int | None:
        """Return the bytes of device memory in use (of the simulator: by us); None when the device does not tell."""
        heaps = self.heaps()
        if heaps:
            return sum(int(heap.total) - int(heap.available) for heap in heaps)
        return self._reserved + self.allocated() if self.libraries.simulated else None

    def reserve(self, needed: int, purpose: str) -> None:
        """Count bytes that a library is about to take for itself. Raises DeviceError unless they are free."""
        self._require(needed, purpose)
        self._reserved += needed

    def _require(self, needed: int, purpose: str) -> None:
        # Beyond what is free the library would end the process.
        require_memory(purpose, needed, self.free(), self.index, str(self))

    def allocate(self, size: int) -> DeviceMemory:
        """Device memory of `size` bytes, not initialised. Raises DeviceError when there is not enough."""
        if not 0 < size <= LARGEST:
            raise DeviceError(f"device memory of {size} bytes cannot be asked for in one piece")
        self._require(size, "an allocation")
        mem = DeviceMem()
        self.call("bm_malloc_device_byte", c.byref(mem), size)
        memory = DeviceMemory(self, mem)
        self._owned[id(memory)] = memory
        return memory

    def allocated(self) -> int:
        """Bytes of memory that `allocate` gave and that were not closed yet."""
        return sum(memory.size for memory in self._owned.values())

    def on_close(self, free: Callable[[Any], object], what: Any) -> None:
        """Call `free` with `what` before the device is closed."""
        self._stack.callback(free, what)

    def close(self) -> None:
        """Free everything that was opened on the device, then the device. May be called twice."""
        if self._handle is None:
            return
        try:
            self._stack.close()
            for memory in reversed(list(self._owned.values())):
                memory.close()
        finally:
            handle, self._handle = self._handle, None
            self.libraries.bmlib.bm_dev_free(handle)

    def _check(self, name: str, status: int) -> None:
        if status:
            raise DeviceError(
                f"{name} failed on {self}: {STATUS.get(status, 'unknown failure')} (status {status})"
            )
