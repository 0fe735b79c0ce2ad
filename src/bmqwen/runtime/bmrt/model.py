"""A bmodel loaded on a device: its nets, their stages, and launching them."""

import ctypes as c
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from bmqwen.artifact.bmodel import check_bmodel
from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.backend import Network, Port, Stage, check_fits
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import DeviceMem, NetInfo, Tensor

# bm_data_type_t. BF16 has no numpy type: its bits travel as uint16.
DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int8),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int16),
    5: np.dtype(np.uint16),
    6: np.dtype(np.int32),
    7: np.dtype(np.uint32),
    8: np.dtype(np.uint16),
}
BFLOAT16 = 8


class Model:
    """A bmodel on a device. `launches` counts the nets launched so far."""

    def __init__(self, device: Device, path: Path, *, needed: int = 0) -> None:
        """Load a bmodel.

        Args:
            device: an open device. It closes the model with itself.
            path: the file.
            needed: bytes of device memory that it takes (0: as many as the file has).

        Raises:
            BundleError: no bmodel, or a truncated one.
            DeviceError: not enough memory, or libbmrt refuses the file.
        """
        check_bmodel(path)
        device.reserve(needed or path.stat().st_size, path.name)
        self.device, self.path, self.launches = device, path, 0
        self._bmrt = device.libraries.bmrt
        self._runtime: int | None = self._bmrt.bmrt_create(device.handle)
        if not self._runtime:
            raise DeviceError(f"bmrt_create failed on {device}")
        device.on_close(self)
        if not self._bmrt.bmrt_load_bmodel(self._runtime, str(path).encode()):
            self.close()
            raise DeviceError(
                f"bmrt_load_bmodel failed on {device} for {path}: it was made for another chip or runtime"
            )
        self.networks = {name: self._network(name) for name in self._names()}

    def launch(self, stage: Stage, inputs: Sequence[DeviceMemory], outputs: Sequence[DeviceMemory]) -> None:
        """Start a stage. What is given in memory other than the stage's own is copied by the device.

        `Device.synchronize` waits for it.

        Raises:
            DeviceError: wrong number or size of memory, or libbmrt refuses.
        """
        given = tensors(stage, "input", stage.inputs, inputs)
        taken = tensors(stage, "output", stage.outputs, outputs)
        self.start(stage, given, taken)

    def start(self, stage: Stage, given: Any, taken: Any) -> None:
        """Start a stage with `tensors` made before, as `launch` does."""
        launched = self._bmrt.bmrt_launch_tensor_ex(
            self._open(), stage.net.encode(), given, len(given), taken, len(taken), True, False
        )
        if not launched:
            raise DeviceError(
                f"bmrt_launch_tensor_ex failed on {self.device} for net {stage.net}, stage {stage.index}"
            )
        self.launches += 1

    def close(self) -> None:
        """Free the model. May be called twice."""
        if self._runtime is not None:
            runtime, self._runtime = self._runtime, None
            self._bmrt.bmrt_destroy(runtime)

    def _open(self) -> int:
        self.device.handle  # noqa: B018  (raises when the device is closed)
        if self._runtime is None:
            raise DeviceError(f"{self.path.name} was used after it was closed")
        return self._runtime

    def _names(self) -> list[str]:
        number = self._bmrt.bmrt_get_network_number(self._open())
        names = c.POINTER(c.c_char_p)()
        self._bmrt.bmrt_get_network_names(self._open(), c.byref(names))
        found = [(names[i] or b"").decode() for i in range(number)]
        c.CDLL(None).free(names)
        return found

    def _network(self, name: str) -> Network:
        pointer = self._bmrt.bmrt_get_network_info(self._open(), name.encode())
        if not pointer:
            raise DeviceError(f"bmrt_get_network_info failed on {self.device} for net {name}")
        info: NetInfo = pointer.contents
        stages = []
        for index in range(info.stage_num):
            stage = info.stages[index]
            inputs = (info.input_names, info.input_dtypes, stage.input_shapes, stage.input_mems)
            outputs = (info.output_names, info.output_dtypes, stage.output_shapes, stage.output_mems)
            given = tuple(self._port(i, *inputs) for i in range(info.input_num))
            taken = tuple(self._port(i, *outputs) for i in range(info.output_num))
            stages.append(Stage(name, index, given, taken))
        return Network(name, bool(info.is_dynamic), int(info.addr_mode), tuple(stages))

    def _port(self, index: int, names: Any, dtypes: Any, shapes: Any, memory: Any) -> Port:
        """An input or output, from the arrays that libbmrt describes them with."""
        dtype = dtypes[index]
        if dtype not in DTYPES:
            raise DeviceError(f"{self.path.name} has a tensor of the unsupported type {dtype}")
        own = DeviceMemory(self.device, DeviceMem.from_buffer_copy(memory[index]), owned=False)
        name = (names[index] or b"").decode()
        return Port(name, shapes[index].to_tuple(), DTYPES[dtype], dtype == BFLOAT16, own)


def own_memory(port: Port) -> DeviceMemory:
    """Where a stage of a `Model` keeps an input or output."""
    return cast(DeviceMemory, port.memory)


def tensors(stage: Stage, what: str, ports: tuple[Port, ...], memory: Sequence[DeviceMemory]) -> Any:
    """bm_tensor_t array for one side ("input" or "output") of a launch. Raises DeviceError for memory too small."""
    check_fits(stage, what, ports, memory)
    made = (Tensor * len(ports))()
    for tensor, port, piece in zip(made, ports, memory, strict=True):
        tensor.dtype = BFLOAT16 if port.bfloat16 else next(k for k, v in DTYPES.items() if v == port.dtype)
        tensor.shape.num_dims = len(port.shape)
        tensor.shape.dims[: len(port.shape)] = port.shape
        tensor.device_mem = piece.mem
        tensor.st_mode = 0
    return made
