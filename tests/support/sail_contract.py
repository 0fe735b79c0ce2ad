"""What a module `sophon.sail` makes of right and wrong calls: the stand-in, or the real one where it is."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import support.sail_stand_in as sail_stand_in
from bmqwen.runtime.bmrt.libraries import load_libraries
from bmqwen.runtime.sail.module import sail_installed


class Conduct:
    """Calls of one device and one bmodel."""

    def __init__(self, bmodel: Path, folder: Path) -> None:
        """Open both, in a process of the simulator."""
        if sail_installed():
            load_libraries(folder)
        else:
            sail_stand_in.install(folder)
        self._sail: Any = importlib.import_module("sophon.sail")
        self._path = str(bmodel)
        self._handle: Any = self._sail.Handle(0)
        self._engine: Any = self._sail.EngineLLM(self._path, [0])

    def engines(self) -> dict[str, str]:
        """Opening devices and bmodels."""
        sail, path = self._sail, self._path
        return outcomes(
            {
                "a device by text": lambda: sail.Handle("0"),
                "the number of devices": lambda: sail.get_available_tpu_num(),
                "no devices": lambda: sail.EngineLLM(path),
                "a device that is no list": lambda: sail.EngineLLM(path, 0),
                "an empty list of devices": lambda: sail.EngineLLM(path, []),
                "a file that there is not": lambda: sail.EngineLLM(f"{path}.gone", [0]),
                "a flag": lambda: type(sail.EngineLLM(path, sail.BmrtFlag.BM_RUNTIME_AUTO, [0])).__name__,
            }
        )

    def tensors(self) -> dict[str, str]:
        """Making, filling and reading tensors."""
        sail, kinds = self._sail, self._sail.Dtype
        four = self._tensor([4], kinds.BM_FLOAT32)
        half, brain = self._tensor([2, 2], kinds.BM_FLOAT16), self._tensor([2, 2], kinds.BM_BFLOAT16)
        whole, none = self._tensor([2], kinds.BM_UINT32), self._tensor([0], kinds.BM_FLOAT32)
        floats, bits = np.arange(4, dtype=np.float32), np.arange(4, dtype=np.uint16).reshape(2, 2)
        return outcomes(
            {
                "floats": lambda: four.update_data(floats),
                "floats back": lambda: described(four.asnumpy()),
                "every second of more floats": lambda: four.update_data(np.arange(8, dtype=np.float32)[::2]),
                "those back": lambda: described(four.asnumpy()),
                "a list": lambda: four.update_data([1.0, 2.0, 3.0, 5.0]),
                "the list back": lambda: described(four.asnumpy()),
                "ints for floats": lambda: four.update_data(np.arange(4, dtype=np.int32)),
                "too few": lambda: four.update_data(floats[:3]),
                "another number of axes": lambda: four.update_data(floats.reshape(2, 2)),
                "halves": lambda: half.update_data(bits),
                "halves back": lambda: described(half.asnumpy()),
                "numpy's halves": lambda: half.update_data(bits.view(np.float16)),
                "the other halves": lambda: brain.update_data(bits),
                "the other halves back": lambda: described(brain.asnumpy()),
                "unsigned": lambda: whole.update_data(np.array([1, 2], np.uint32)),
                "unsigned back": lambda: described(whole.asnumpy()),
                "no elements": lambda: none.is_dev_data_valid(),
                "no elements filled": lambda: none.update_data(floats[:0]),
                "no elements read": lambda: none.asnumpy(),
                "a shape that is a tuple": lambda: self._tensor((2, 3), kinds.BM_INT32).shape(),
                "a shape that is text": lambda: self._tensor("23", kinds.BM_INT32),
                "a type that is a number": lambda: self._tensor([2], 0),
                "own memory that is text": lambda: sail.Tensor(self._handle, [2], kinds.BM_INT32, "", ""),
            }
        )

    def views(self) -> dict[str, str]:
        """Parts of tensors, and copies between them."""
        sail, kinds = self._sail, self._sail.Dtype
        source, target = (self._tensor([2, 4], kinds.BM_FLOAT32) for _ in range(2))
        source.update_data(np.arange(8, dtype=np.float32).reshape(2, 4))
        ints = self._tensor([8], kinds.BM_INT32)
        part = sail.Tensor(source, [1, 3], 4)
        return outcomes(
            {
                "a part": lambda: described(part.asnumpy()),
                "a part of a part": lambda: described(sail.Tensor(part, [2], 1).asnumpy()),
                "a part written": lambda: part.update_data(np.full((1, 3), 9, np.float32)),
                "what it is a part of": lambda: described(source.asnumpy()),
                "a part beyond the end": lambda: sail.Tensor(source, [4], 5),
                "a part before the start": lambda: sail.Tensor(source, [4], -1),
                "a part without elements": lambda: sail.Tensor(source, [0], 0),
                "a part of another memory": lambda: sail.Tensor(source, [1], 0, False),
                "a copy": lambda: target.sync_d2d(source, 3, 6, 2),
                "the copy": lambda: described(target.asnumpy().reshape(-1)[6:]),
                "a copy beyond the source": lambda: target.sync_d2d(source, 7, 0, 2),
                "a copy beyond the target": lambda: target.sync_d2d(source, 0, 7, 2),
                "a copy of another type": lambda: target.sync_d2d(ints, 0, 0, 2),
                "a copy of an array": lambda: target.sync_d2d(np.zeros(8, np.float32), 0, 0, 2),
            }
        )

    def nets(self) -> dict[str, str]:
        """Asking a bmodel, and launching its net."""
        engine = self._engine
        net = engine.get_graph_names()[0]
        given, taken = self._io(net, "input"), self._io(net, "output")
        return outcomes(
            {
                "its mode": lambda: engine.get_addr_mode(net),
                "whether it is dynamic": lambda: engine.get_is_dynamic(net),
                "another net": lambda: engine.get_addr_mode("another"),
                "an input by its name": lambda: engine.get_input_shape(net, engine.get_input_names(net)[0]),
                "an input that there is not": lambda: engine.get_input_shape(net, 1000),
                "a stage that there is not": lambda: engine.get_input_shape(net, 0, 1000),
                "its own inputs": lambda: list(engine.get_input_tensors(net, 0)) == list(given),
                "a launch": lambda: engine.process(net, given, taken),
                "a launch in another order": lambda: engine.process(
                    net, dict(reversed(given.items())), taken
                ),
                "a launch by names": lambda: engine.process(net, {("x", 0): given[0]}, taken),
                "a launch of another net": lambda: engine.process("another", given, taken),
                "a launch in a shape of no stage": lambda: engine.process(
                    net, {**given, 0: self._tensor([1, 77, 3], given[0].dtype())}, taken
                ),
            }
        )

    def close(self) -> None:
        """Let go of both."""
        self._engine = self._handle = None

    def _tensor(self, shape: Any, kind: Any) -> Any:
        return self._sail.Tensor(self._handle, shape, kind, False, True)

    def _io(self, net: str, side: str) -> dict[int, Any]:
        engine = self._engine
        shape, kind = getattr(engine, f"get_{side}_shape"), getattr(engine, f"get_{side}_dtype")
        count = len(getattr(engine, f"get_{side}_names")(net))
        return {i: self._tensor(shape(net, i), kind(net, i)) for i in range(count)}


def outcomes(calls: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """What each gave: text of the result, or the name of the error."""
    return {name: _outcome(call) for name, call in calls.items()}


def _outcome(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__


def described(array: Any) -> str:
    """Type, shape and numbers."""
    return f"{array.dtype} {list(array.shape)} {array.reshape(-1).tolist()}"


def conduct(bmodel: Path, folder: Path) -> Conduct:
    """A factory."""
    return Conduct(bmodel, folder)
