"""A stand-in for the module `sophon.sail`: as strict as its manual, and computing with libbmrt on the simulator.

Written from the manual of SAIL 3.10. What it adds are checks: a view that outlives its source, a number of another
type, a stale copy on the host is an error here, where the real module goes wrong silently.
"""

import enum
import importlib.machinery
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.nets import IO_ALONE, Port, Stage
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import load_libraries
from bmqwen.runtime.bmrt.model import Model, own_memory


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
    """What stands behind the module: one device, opened on first use.

    Attributes:
        named: the form of before June 2024: tensors are known by name, not by number.
        views: a tensor can be made of a part of another one.
        mapped: as on a SoC, the nets' own tensors are mapped into the host's memory.
        stat: what get_dev_stat returns.
        devices: how many there are.
        refuses: fewer constructors of EngineLLM: only the one that takes flags.
        calls: how often each was called.
    """

    folder: Path
    named = False
    views = True
    mapped = False
    stat: tuple[int, int, int] = (0, 0, 0)
    devices = 1
    refuses = False
    calls: dict[str, int]
    _device: Device | None = None

    def device(self) -> Device:
        """It."""
        if self._device is None:
            self._device = Device(load_libraries(self.folder))
        return self._device

    def count(self, call: str) -> None:
        """Note a call."""
        self.calls[call] = self.calls.get(call, 0) + 1


STATE = State()


def plain(value: object) -> int:
    """A Python int, as a C++ int is made from."""
    if type(value) is not int:
        raise TypeError(f"incompatible function arguments: {value!r} is no int")
    return value


def dimensions(shape: object) -> tuple[int, ...]:
    """A shape of positive ints."""
    if not isinstance(shape, list):
        raise TypeError(f"incompatible constructor arguments: {shape!r} is no list")
    found = tuple(plain(n) for n in shape)
    if not found or min(found) <= 0:
        raise SailTensorError("invalid shape")
    return found


class Handle:
    """A device."""

    def __init__(self, tpu_id: int) -> None:
        if not 0 <= plain(tpu_id) < STATE.devices:
            raise SailDeviceError("init device failure")

    def get_device_id(self) -> int:
        """Its number."""
        return 0

    def get_target(self) -> str:
        """The chip's name, which the simulator does not know."""
        return "Error"


class Tensor:
    """Device memory with a shape and a type; maybe host memory as well."""

    def __init__(self, *args: Any) -> None:
        self._sys: NDArray[Any] | None = None
        self._source: weakref.ref[Any] | None = None
        if isinstance(args[0], Handle):
            self._create(*args[1:])
        elif isinstance(args[0], Tensor) and STATE.views:
            self._look(*args)
        else:
            raise TypeError("incompatible constructor arguments")

    def _create(self, shape: Any, dtype: Any, own_sys_data: Any, own_dev_data: Any) -> None:
        if not isinstance(dtype, Dtype) or type(own_sys_data) is not bool or type(own_dev_data) is not bool:
            raise TypeError("incompatible constructor arguments")
        self._shape, self._dtype = dimensions(shape), dtype
        self._dev: DeviceMemory | None = None
        if own_dev_data:
            memory = STATE.device().allocate(self._bytes())
            # Older versions leave what was there: as halves and floats these are no numbers.
            memory.write(np.full(self._bytes(), 0xFF, np.uint8))
            self._dev = memory
            weakref.finalize(self, memory.close)
        if own_sys_data:
            self._sys = np.zeros(self._shape, WIRE[dtype])

    def _look(self, src: "Tensor", shape: Any, offset: Any) -> None:
        self._shape, self._dtype = dimensions(shape), src._dtype
        size = WIRE[self._dtype].itemsize
        if plain(offset) < 0 or offset * size + self._bytes() > src._bytes():
            raise SailTensorError("size out of range")
        self._source = weakref.ref(src)
        self._dev = src.memory().view(offset * size, self._bytes())
        if src._sys is not None:
            self._sys = src._sys.reshape(-1)[offset : offset + self.size()].reshape(self._shape)

    @classmethod
    def of_net(cls, engine: "EngineLLM", port: Port, dtype: Dtype) -> "Tensor":
        """A net's own."""
        tensor = cls.__new__(cls)
        tensor._shape, tensor._dtype, tensor._dev = port.shape, dtype, own_memory(port)
        tensor._source = weakref.ref(engine)
        tensor._sys = np.full(port.shape, 77, WIRE[dtype]) if STATE.mapped else None
        return tensor

    def _bytes(self) -> int:
        return int(np.prod(self._shape)) * WIRE[self._dtype].itemsize

    def memory(self) -> DeviceMemory:
        """Its device memory, while that is there."""
        if self._source is not None and self._source() is None:
            raise AssertionError("the source of this view is gone: on a chip this would be another's memory")
        if self._dev is None:
            raise SailTensorError("invalid Tensor")
        return self._dev

    def shape(self) -> list[int]:
        """Elements along each axis."""
        return list(self._shape)

    def dtype(self) -> Dtype:
        """Its type."""
        return self._dtype

    def size(self) -> int:
        """Elements."""
        return int(np.prod(self._shape))

    def update_data(self, data: Any) -> None:
        """Fill the host memory; without one, the device's."""
        STATE.count("update_data")
        if not isinstance(data, np.ndarray) or data.ndim != len(self._shape) or data.shape != self._shape:
            raise SailTensorError("invalid argument")
        if data.dtype != WIRE[self._dtype]:
            raise SailTensorError("Wrong dtype of input array!")
        if self._sys is not None:
            self._sys[...] = data
        else:
            self.memory().write(data)

    def asnumpy(self) -> NDArray[Any]:
        """A copy of the host memory; without one, of the device's."""
        STATE.count("asnumpy")
        if self._sys is not None:
            return self._sys.copy()
        array = np.empty(self._shape, WIRE[self._dtype])
        self.memory().read(array)
        return array

    def sync_s2d(self) -> None:
        """Host to device."""
        if self._sys is not None:
            self.memory().write(self._sys)

    def sync_d2s(self) -> None:
        """Device to host."""
        if self._sys is not None:
            self.memory().read(self._sys)

    def sync_d2d(self, src: Any, offset_src: Any, offset_dst: Any, length: Any) -> None:
        """Copy elements on the device."""
        STATE.count("sync_d2d")
        if not isinstance(src, Tensor):
            raise TypeError("incompatible function arguments")
        if src._dtype != self._dtype:
            raise SailTensorError("mismatch Tensor")
        if plain(offset_src) + plain(length) > src.size() or plain(offset_dst) + length > self.size():
            raise SailTensorError("size out of range")
        size = WIRE[self._dtype].itemsize
        self.memory().copy_from(
            src.memory(), length * size, offset=offset_dst * size, source_offset=offset_src * size
        )


class EngineLLM:
    """A bmodel."""

    def __init__(self, bmodel_path: Any, *rest: Any) -> None:
        ids = rest[-1] if rest else None
        forms: tuple[type, ...] = (BmrtFlag,) if STATE.refuses else ()
        if (
            not isinstance(bmodel_path, str)
            or ids != [0]
            or tuple(map(type, rest[:-1]))
            not in {
                forms,
                (BmrtFlag,),
            }
        ):
            raise TypeError("incompatible constructor arguments")
        if not Path(bmodel_path).is_file():
            raise SailEngineError("EngineLLM bmodel error!")
        self._model = Model(STATE.device(), Path(bmodel_path))
        if STATE.named:
            self.get_addr_mode = self.get_stage_num = None  # type: ignore[assignment]
            del self.get_addr_mode, self.get_stage_num

    def __getattribute__(self, name: str) -> Any:
        if STATE.named and name in ("get_addr_mode", "get_stage_num", "get_input_tensors"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def get_graph_names(self) -> list[str]:
        """Names of the nets."""
        return list(self._model.networks)

    def get_is_dynamic(self, net: str) -> bool:
        """Whether lengths may vary."""
        return self._model.networks[net].dynamic

    def get_addr_mode(self, net: str) -> int:
        """0 basic, 1 io_alone."""
        return self._model.networks[net].address_mode

    def get_stage_num(self, net: str) -> int:
        """Sets of shapes."""
        return len(self._model.networks[net].stages)

    def get_input_names(self, net: str) -> list[str]:
        """In order."""
        return [port.name for port in self._stage(net, 0).inputs]

    def get_output_names(self, net: str) -> list[str]:
        """In order."""
        return [port.name for port in self._stage(net, 0).outputs]

    def get_input_shape(self, net: str, which: Any, *stage: Any) -> list[int]:
        """Of one input."""
        return list(self._port(self._stage(net, *stage).inputs, which).shape)

    def get_output_shape(self, net: str, which: Any, *stage: Any) -> list[int]:
        """Of one output."""
        return list(self._port(self._stage(net, *stage).outputs, which).shape)

    def get_input_dtype(self, net: str, which: Any) -> Dtype:
        """Of one input."""
        return kind(self._port(self._stage(net, 0).inputs, which))

    def get_output_dtype(self, net: str, which: Any) -> Dtype:
        """Of one output."""
        return kind(self._port(self._stage(net, 0).outputs, which))

    def get_input_tensors(self, net: str, stage: Any = 0) -> dict[int, Tensor]:
        """The net's own; in mode basic there are none."""
        if self._model.networks[net].address_mode != IO_ALONE:
            return {}
        ports = self._stage(net, plain(stage)).inputs
        return {i: Tensor.of_net(self, port, kind(port)) for i, port in enumerate(ports)}

    def process(self, net: str, given: Any, taken: Any, core_list: Any = (0,)) -> None:
        """Launch the stage that the inputs' shapes are of, and wait."""
        STATE.count("process")
        assert list(core_list) == [0]
        for stage in self._model.networks[net].stages:
            if [tuple(t.shape()) for t in given.values()] == [port.shape for port in stage.inputs]:
                break
        else:
            raise SailEngineError(f"Engine related error! {net}")
        pieces = [
            self._pieces(tensors, ports) for tensors, ports in ((given, stage.inputs), (taken, stage.outputs))
        ]
        self._model.launch(stage, *pieces)
        STATE.device().synchronize()

    def _pieces(self, tensors: Any, ports: tuple[Port, ...]) -> list[DeviceMemory]:
        keys = [(port.name, 0) for port in ports] if STATE.named else list(range(len(ports)))
        if not isinstance(tensors, dict) or list(tensors) != keys:
            raise TypeError(f"incompatible function arguments: {tensors}")
        for tensor, port in zip(tensors.values(), ports, strict=True):
            if tensor.dtype() != kind(port) or tuple(tensor.shape()) != port.shape:
                raise AssertionError(f"{port.name} is {port.shape} {kind(port)}, not {tensor.shape()}")
        return [tensor.memory() for tensor in tensors.values()]

    def _stage(self, net: str, stage: int = 0) -> Stage:
        return self._model.networks[net].stages[plain(stage)]

    def _port(self, ports: tuple[Port, ...], which: Any) -> Port:
        if STATE.named:
            if not isinstance(which, str):
                raise TypeError("incompatible function arguments")
            return next(port for port in ports if port.name == which)
        return ports[plain(which)]


def kind(port: Port) -> Dtype:
    """The type of an input or output."""
    if port.bfloat16:
        return Dtype.BM_BFLOAT16
    return Dtype[f"BM_{port.dtype.name.upper()}"]


def get_available_tpu_num() -> int:
    """Devices."""
    return STATE.devices


def get_dev_stat(tpu_id: int) -> list[int]:
    """MiB in all, MiB in use, percent of time."""
    plain(tpu_id)
    return list(STATE.stat)


def install(folder: Path, **settings: Any) -> types.ModuleType:
    """Make it the module `sophon.sail` of this process.

    Args:
        folder: the simulator's libraries.
        settings: attributes of `State`.
    """
    STATE.folder, STATE.calls = folder, {}
    for name, value in settings.items():
        setattr(STATE, name, value)
    package, module = types.ModuleType("sophon"), types.ModuleType("sophon.sail")
    package.__path__ = []
    for made in (package, module):
        made.__spec__ = importlib.machinery.ModuleSpec(made.__name__, None)
        sys.modules[made.__name__] = made
    for public in (Dtype, BmrtFlag, Handle, Tensor, EngineLLM, get_available_tpu_num, get_dev_stat):
        setattr(module, public.__name__, public)
    # As the real one is built: the day, not a version.
    module.__dict__["__version__"] = "master(20250427_120000)"
    package.__dict__["sail"] = module
    return module
