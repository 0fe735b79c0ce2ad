"""Bmodels of the stand-in."""

from pathlib import Path
from typing import Any

from bmqwen.artifact.bmodel import IO_ALONE
from bmqwen.errors import BmqwenError
from bmqwen.runtime.bmodel.backend import Network, Port, Stage
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import DeviceMemory
from support.sail_stand_in.handle import Opening
from support.sail_stand_in.state import STATE, BmrtFlag, Dtype, SailEngineError, dimensions, plain, say
from support.sail_stand_in.tensor import Tensor


class EngineLLM:
    """A bmodel."""

    def __init__(self, bmodel_path: Any, *rest: Any) -> None:
        forms = {(), (BmrtFlag,)} if STATE.version >= (3, 9, 4) else {()}
        if not isinstance(bmodel_path, str) or not rest or tuple(map(type, rest[:-1])) not in forms:
            raise TypeError("incompatible constructor arguments")
        ids = dimensions(rest[-1])
        if not ids:
            raise SailEngineError("EngineLLM device_ids error!")
        if not Path(bmodel_path).is_file():
            raise SailEngineError("EngineLLM bmodel error!")
        self.openings = [Opening(index) for index in ids]
        try:
            self._model = BmrtBackend(STATE.device(), Path(bmodel_path))
        except BmqwenError as error:
            say(f"[error] {error}")
            raise SailEngineError("EngineLLM related error!") from None
        # One more for each input and output of each net.
        stages = [net.stages[0] for net in self._model.networks.values()]
        for stage in stages:
            self.openings += [Opening(ids[0]) for _ in (*stage.inputs, *stage.outputs)]

    def get_graph_names(self) -> list[str]:
        """Names of the nets."""
        return list(self._model.networks)

    def get_is_dynamic(self, net: str) -> bool:
        """Whether lengths may vary."""
        return self._net(net).dynamic

    def get_addr_mode(self, net: str) -> int:
        """0 basic, 1 io_alone."""
        return self._net(net).address_mode

    def get_stage_num(self, net: str) -> int:
        """Sets of shapes."""
        return len(self._net(net).stages)

    def get_input_names(self, net: str) -> list[str]:
        """In order."""
        return [port.name for port in self._stage(net, 0).inputs]

    def get_output_names(self, net: str) -> list[str]:
        """In order."""
        return [port.name for port in self._stage(net, 0).outputs]

    def get_input_shape(self, net: str, which: Any, *stage: Any) -> list[int]:
        """Of one input."""
        return list(self._stage(net, *stage).inputs[plain(which)].shape)

    def get_output_shape(self, net: str, which: Any, *stage: Any) -> list[int]:
        """Of one output."""
        return list(self._stage(net, *stage).outputs[plain(which)].shape)

    def get_input_dtype(self, net: str, which: Any) -> Dtype:
        """Of one input."""
        return _kind(self._stage(net, 0).inputs[plain(which)])

    def get_output_dtype(self, net: str, which: Any) -> Dtype:
        """Of one output."""
        return _kind(self._stage(net, 0).outputs[plain(which)])

    def get_input_tensors(self, net: str, stage: Any = 0) -> dict[int, Tensor]:
        """The net's own; in mode basic there are none."""
        if self._net(net).address_mode != IO_ALONE:
            say("[error] Can not get internal input tensors when addr_mode is not 1.")
            return {}
        ports = self._stage(net, plain(stage)).inputs
        return {i: Tensor.of_net(self, port, _kind(port)) for i, port in enumerate(ports)}

    def process(self, net: str, given: Any, taken: Any, core_list: Any = (0,)) -> None:
        """Launch the stage that the inputs' shapes are of, and wait."""
        STATE.count("process")
        dimensions(core_list)
        stages = self._net(net).stages
        ordered = _ordered(given, stages[0].inputs), _ordered(taken, stages[0].outputs)
        shapes = [tuple(tensor.shape()) for tensor in ordered[0]]
        stage = next((s for s in stages if [port.shape for port in s.inputs] == shapes), None)
        if stage is None:
            say("[error] bmrt_launch_tensor_ex fail!")
            raise SailEngineError("Engine related error!")
        inputs = self._memory(ordered[0], stage.inputs)
        self._model.prepare(stage, inputs, self._memory(ordered[1], stage.outputs)).start()
        self._model.synchronize()

    def _memory(self, tensors: list[Tensor], ports: tuple[Port, ...]) -> list[DeviceMemory]:
        """Of each; what the real module does not look at is checked here."""
        for tensor, port in zip(tensors, ports, strict=True):
            if tensor.dtype() != _kind(port) or tuple(tensor.shape()) != port.shape:
                raise AssertionError(f"{port.name} is {port.shape} {_kind(port)}, not {tensor.shape()}")
            if tensor.device_id() != self.openings[0].tpu_id:
                raise AssertionError(f"{port.name} lies on device {tensor.device_id()}")
        return [tensor.memory() for tensor in tensors]

    def _net(self, name: str) -> Network:
        if name not in self._model.networks:
            raise IndexError("map::at")
        return self._model.networks[name]

    def _stage(self, net: str, stage: Any = 0) -> Stage:
        return self._net(net).stages[plain(stage)]


def _ordered(tensors: Any, ports: tuple[Port, ...]) -> list[Tensor]:
    """In the order of the ports. One that is missing would be a null pointer."""
    keys = list(range(len(ports)))
    if not isinstance(tensors, dict) or any(not isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise TypeError(f"incompatible function arguments: {tensors}")
    if any(type(key) is not int for key in tensors):
        raise TypeError(f"incompatible function arguments: {tensors}")
    if set(tensors) != set(keys):
        raise AssertionError(f"tensors {list(tensors)} are given, {keys} are wanted: this would crash")
    return [tensors[key] for key in keys]


def _kind(port: Port) -> Dtype:
    """The type of an input or output."""
    if port.bfloat16:
        return Dtype.BM_BFLOAT16
    return Dtype[f"BM_{port.dtype.name.upper()}"]
