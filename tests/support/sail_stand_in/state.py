"""What stands behind the stand-in: the version that it behaves as, its enums and errors, the simulated device."""

import enum
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import load_libraries


class Dtype(enum.Enum):
    """bm_data_type_t."""

    BM_FLOAT32 = 0
    BM_FLOAT16 = 1
    BM_INT8 = 2
    BM_UINT8 = 3
    BM_INT16 = 4
    BM_UINT16 = 5
    BM_INT32 = 6
    BM_UINT32 = 7
    BM_BFLOAT16 = 8


class BmrtFlag(enum.IntEnum):
    """bm_runtime_flag_t."""

    BM_RUNTIME_AUTO = 0
    BM_RUNTIME_SHARE_MEM = 1


# What travels between numpy and a tensor.
WIRE: dict[Dtype, np.dtype[Any]] = {
    Dtype.BM_FLOAT32: np.dtype(np.float32),
    Dtype.BM_FLOAT16: np.dtype(np.uint16),
    Dtype.BM_BFLOAT16: np.dtype(np.uint16),
    Dtype.BM_INT8: np.dtype(np.int8),
    Dtype.BM_UINT8: np.dtype(np.uint8),
    Dtype.BM_INT16: np.dtype(np.int16),
    Dtype.BM_UINT16: np.dtype(np.uint16),
    Dtype.BM_INT32: np.dtype(np.int32),
    Dtype.BM_UINT32: np.dtype(np.uint32),
}


class SailTensorError(Exception):
    """As the module's."""


class SailEngineError(Exception):
    """As the module's."""


class SailDeviceError(Exception):
    """As the module's."""


class State:
    """One simulated device, opened on first use, whatever number it is asked for by.

    Attributes:
        version: what the module behaves as: types of arrays are checked from 3.10 on.
        mapped: as on a SoC, the nets' own tensors are mapped into the host's memory.
        stat: what get_dev_stat returns.
        devices: how many there are.
        calls: how often each was called.
        openings: how often it is open now.
    """

    folder: Path
    version: tuple[int, ...]
    mapped: bool
    stat: tuple[int, int, int]
    devices: int
    calls: dict[str, int]
    openings = 0
    _device: Device | None = None

    def set(
        self,
        folder: Path,
        *,
        version: tuple[int, ...] = (3, 10, 7),
        mapped: bool = False,
        stat: tuple[int, int, int] = (0, 0, 0),
        devices: int = 1,
    ) -> None:
        """Begin again, on the simulator of a folder."""
        self.folder, self.version, self.mapped, self.stat = folder, version, mapped, stat
        self.devices, self.calls = devices, {}

    def device(self) -> Device:
        """It."""
        if self._device is None:
            self._device = Device(load_libraries(self.folder))
        return self._device

    def close(self) -> None:
        """Once nothing has it open any more."""
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def count(self, call: str) -> None:
        """Note a call."""
        self.calls[call] = self.calls.get(call, 0) + 1

    def fail(self, error: Exception) -> NoReturn:
        """Say on standard output what is wrong, and raise."""
        say(f"[error] {error}")
        raise error


STATE = State()


def say(text: str) -> None:
    """Print as the module's logger does: from C, on standard output."""
    os.write(1, f"{text}\n".encode())


def plain(value: object) -> int:
    """A Python int, as a C++ int is made from."""
    if type(value) is not int:
        raise TypeError(f"incompatible function arguments: {value!r} is no int")
    return value


def dimensions(shape: object) -> tuple[int, ...]:
    """A vector of ints: any sequence of them, but no text."""
    if not isinstance(shape, list | tuple):
        raise TypeError(f"incompatible constructor arguments: {shape!r} is no list of ints")
    return tuple(plain(n) for n in shape)
