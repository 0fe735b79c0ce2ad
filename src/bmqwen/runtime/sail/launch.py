"""A stage launched through SAIL, and the small inputs that are written before."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.backend import Port, Stage, check_fits
from bmqwen.runtime.sail.memory import SailMemory, TensorMaker
from bmqwen.runtime.sail.module import sail_errors


class SailInputs:
    """The `Inputs` of a stage: SAIL has no copy for several at once, so each that changed is one."""

    def __init__(self, maker: TensorMaker, ports: Sequence[Port]) -> None:
        self._maker = maker
        self.memory = {port.name: maker.like(port) for port in ports}
        self.arrays = {port.name: np.zeros(port.shape, self.memory[port.name].source.dtype) for port in ports}
        self._written: dict[str, NDArray[Any]] = {}
        self.writes = self.nbytes = 0

    def write(self) -> None:
        """Copy what changed since the last time to the device."""
        self.writes = self.nbytes = 0
        for name, array in self.arrays.items():
            before = self._written.get(name)
            if before is not None and np.array_equal(before, array):
                continue
            with sail_errors("update_data", self._maker.device):
                self.memory[name].source.tensor.update_data(array)
            self._written[name] = array.copy()
            self.writes += 1
            self.nbytes += array.nbytes


class SailLaunch:
    """A `Launch`: views of memory in the shapes of a stage, which `process` finds the stage by."""

    def __init__(
        self,
        engine: Any,
        maker: TensorMaker,
        stage: Stage,
        inputs: Sequence[SailMemory],
        outputs: Sequence[SailMemory],
        moving: Sequence[int],
    ) -> None:
        check_fits(stage, "input", stage.inputs, inputs)
        check_fits(stage, "output", stage.outputs, outputs)
        self._engine, self._maker, self._stage = engine, maker, stage
        self._given, self._taken = _views(stage.inputs, inputs), _views(stage.outputs, outputs)
        self._moving = [(i, stage.outputs[i].shape, outputs[i]) for i in moving]
        # Views die with what they were made of.
        self._memory = (*inputs, *outputs)
        # What is not the net's own, the device copies.
        own = [port.nbytes for port, memory in zip(stage.inputs, inputs, strict=True) if memory.source.own]
        self.copies, self.copied_bytes = len(own), sum(own)

    def start(self, offset: int = 0) -> None:
        self._maker.check_open()
        for index, shape, memory in self._moving:
            self._taken[index] = memory.tensor(shape, offset)
        with sail_errors(f"process of net {self._stage.net}, stage {self._stage.index},", self._maker.device):
            self._engine.process(self._stage.net, self._given, self._taken)

    def release(self) -> None:
        """Let go of all tensors."""
        self._given, self._taken, self._engine = {}, {}, None


def _views(ports: Sequence[Port], memory: Sequence[SailMemory]) -> dict[int, Any]:
    """What `process` takes for inputs or outputs: tensors by number."""
    return {i: piece.tensor(port.shape) for i, (port, piece) in enumerate(zip(ports, memory, strict=True))}
