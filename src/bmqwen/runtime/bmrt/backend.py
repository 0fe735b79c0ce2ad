"""A bmodel loaded on a device by libbmrt: its nets, their stages, and launching them."""

import ctypes as c
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bmqwen.artifact.bmodel import check_bmodel
from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.backend import BFLOAT16, NUMPY_TYPES, TYPES, Memory, Network, Port, Stage
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.launch import InputBlock, PreparedLaunch
from bmqwen.runtime.bmrt.libraries import DeviceMem, NetInfo, load_libraries


class BmrtBackend:
    """A device with one bmodel, a `DeviceBackend`. Closing it closes both.

    Attributes:
        device: what it is on.
        launches: how many nets were started.
        chip, library, path, networks: as of `DeviceBackend`.
    """

    library = "libbmrt"

    def __init__(self, device: Device, bmodel: Path, needed: int = 0) -> None:
        """Load a bmodel that takes `needed` bytes (0: as many as the file has) on a device, which frees it with itself.

        Raises BundleError for a file that is no bmodel or truncated; DeviceError if memory is short or libbmrt refuses.
        """
        check_bmodel(bmodel)
        device.reserve(needed or bmodel.stat().st_size, bmodel.name)
        self.device, self.path, self.launches = device, bmodel, 0
        self._bmrt = device.libraries.bmrt
        self._loaded = self._bmrt.bmrt_create(device.handle)
        if not self._loaded:
            raise DeviceError(f"bmrt_create failed on {device}")
        device.on_close(self._bmrt.bmrt_destroy, self._loaded)
        if not self._bmrt.bmrt_load_bmodel(self._loaded, str(bmodel).encode()):
            raise DeviceError(
                f"bmrt_load_bmodel failed on {device} for {bmodel}: it was made for another chip or runtime"
            )
        self.networks: Mapping[str, Network] = {name: self._network(name) for name in self._names()}

    @classmethod
    def open(
        cls, bmodel: Path, needed: int = 0, *, folder: Path | None = None, index: int = 0
    ) -> "BmrtBackend":
        """Open the device of a number, by a folder's libraries (None: a chip's), and load a bmodel.

        Raises what `Device`, `load_libraries` and `BmrtBackend` raise.
        """
        device = Device(load_libraries(folder), index)
        try:
            return cls(device, bmodel, needed)
        except BaseException:
            device.close()
            raise

    def __str__(self) -> str:
        return str(self.device)

    @property
    def chip(self) -> str:
        return self.device.chip

    def allocate(self, port: Port) -> DeviceMemory:
        return self.device.allocate(port.nbytes)

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> InputBlock:
        return InputBlock(self.device, ports, avoid)

    def prepare(
        self,
        stage: Stage,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        moving: Sequence[int] = (),
    ) -> PreparedLaunch:
        given, taken = cast(Sequence[DeviceMemory], inputs), cast(Sequence[DeviceMemory], outputs)
        return PreparedLaunch(self.start, stage, given, taken, moving)

    def start(self, stage: Stage, given: Any, taken: Any) -> None:
        """Start a stage with arrays of bm_tensor_t; the device copies what is not in the stage's own memory.

        Raises DeviceError if libbmrt refuses, or after close.
        """
        self.device.handle  # noqa: B018  (raises when the device is closed)
        launched = self._bmrt.bmrt_launch_tensor_ex(
            self._loaded, stage.net.encode(), given, len(given), taken, len(taken), True, False
        )
        if not launched:
            raise DeviceError(
                f"bmrt_launch_tensor_ex failed on {self.device} for net {stage.net}, stage {stage.index}"
            )
        self.launches += 1

    def synchronize(self) -> None:
        self.device.call("bm_thread_sync")

    def memory_used(self) -> int | None:
        return self.device.used()

    def close(self) -> None:
        self.device.close()

    def _names(self) -> list[str]:
        number = self._bmrt.bmrt_get_network_number(self._loaded)
        names = c.POINTER(c.c_char_p)()
        self._bmrt.bmrt_get_network_names(self._loaded, c.byref(names))
        found = [(names[i] or b"").decode() for i in range(number)]
        c.CDLL(None).free(names)
        return found

    def _network(self, name: str) -> Network:
        pointer = self._bmrt.bmrt_get_network_info(self._loaded, name.encode())
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
        if not 0 <= dtypes[index] < len(TYPES):
            raise DeviceError(f"{self.path.name} has a tensor of the unsupported type {dtypes[index]}")
        kind = TYPES[dtypes[index]]
        own = DeviceMemory(self.device, DeviceMem.from_buffer_copy(memory[index]))
        name = (names[index] or b"").decode()
        return Port(name, shapes[index].to_tuple(), NUMPY_TYPES[kind], kind == BFLOAT16, own)
