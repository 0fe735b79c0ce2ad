"""A stage launched through SAIL, and the small inputs that are written before."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.bmodel.nets import Port, Stage, check_fits
from bmqwen.runtime.sail.memory import SailMemory, TensorMaker
from bmqwen.runtime.sail.module import sail_errors


class SailInputs:
    """The `Inputs` of a stage: SAIL has no copy for several at once, so each that changed is one.

    Attributes:
        arrays, memory: as of `Inputs`.
        writes, nbytes: copies and bytes of the last `write`.
    """

    def __init__(self, maker: TensorMaker, ports: Sequence[Port]) -> None:
        """Lay them out."""
        self._maker = maker
        self.arrays: dict[str, NDArray[Any]] = {}
        self.memory: dict[str, SailMemory] = {}
        self._written: dict[str, NDArray[Any]] = {}
        self.writes = self.nbytes = 0
        for port in ports:
            memory = maker.like(port)
            self.memory[port.name] = memory
            self.arrays[port.name] = np.zeros(port.shape, memory.source.dtype)

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


@dataclass(slots=True)
class _Copy:
    """A tensor of our own in the place of a view, and the memory that it is copied from or to."""

    staged: Any
    memory: SailMemory
    count: int
    moves: bool


class SailLaunch:
    """A `Launch`: views of memory in the shapes of a stage, which `process` finds the stage by.

    A SAIL without views gets tensors of our own instead, copied before or after the launch.

    Attributes:
        copies, copied_bytes: inputs that the device copies, being in memory of our own.
    """

    def __init__(
        self,
        engine: Any,
        maker: TensorMaker,
        stage: Stage,
        memory: tuple[Sequence[SailMemory], Sequence[SailMemory]],
        keys: tuple[Sequence[Hashable], Sequence[Hashable]],
        moving: Sequence[int],
    ) -> None:
        """Make the views of inputs and outputs; `keys` are what `process` calls them."""
        inputs, outputs = memory
        check_fits(stage, "input", stage.inputs, inputs)
        check_fits(stage, "output", stage.outputs, outputs)
        self._engine, self._maker, self._stage = engine, maker, stage
        self._before: list[_Copy] = []
        self._after: list[_Copy] = []
        self._given = self._tensors(keys[0], stage.inputs, inputs, (), self._before)
        self._taken = self._tensors(keys[1], stage.outputs, outputs, moving, self._after)
        self._moving = [(keys[1][i], stage.outputs[i].shape, outputs[i]) for i in moving]
        # Views die with what they were made of.
        self._memory = (*inputs, *outputs)
        own = [p.nbytes for p, m in zip(stage.inputs, inputs, strict=True) if m.source.own]
        own += [copy.memory.size for copy in self._before if not copy.memory.source.own]
        self.copies, self.copied_bytes = len(own), sum(own)

    def start(self, offset: int = 0) -> None:
        """Launch and wait; outputs that move go `offset` bytes further on. Raises DeviceError."""
        self._maker.check_open()
        if self._maker.has_views:
            for key, shape, memory in self._moving:
                self._taken[key] = memory.tensor(shape, offset)
        with sail_errors(f"process of net {self._stage.net}, stage {self._stage.index},", self._maker.device):
            for copy in self._before:
                copy.staged.sync_d2d(copy.memory.source.tensor, copy.memory.start(0), 0, copy.count)
            self._engine.process(self._stage.net, self._given, self._taken)
            for copy in self._after:
                place = copy.memory.start(offset if copy.moves else 0)
                copy.memory.source.tensor.sync_d2d(copy.staged, 0, place, copy.count)

    def release(self) -> None:
        """Let go of all tensors."""
        self._given, self._taken, self._engine = {}, {}, None
        self._before.clear()
        self._after.clear()

    def _tensors(
        self,
        keys: Sequence[Hashable],
        ports: Sequence[Port],
        memory: Sequence[SailMemory],
        moving: Sequence[int],
        copies: list[_Copy],
    ) -> dict[Hashable, Any]:
        """What `process` takes for inputs or outputs; to `copies` goes what has to be copied."""
        tensors = {}
        for index, (key, port, piece) in enumerate(zip(keys, ports, memory, strict=True)):
            moves = index in moving
            # A row that moves is a view, even where it is the only one.
            tensor = None if moves and not self._maker.has_views else piece.tensor(port.shape)
            if tensor is None:
                tensor = piece.source.staged(port.shape)
                count = port.nbytes // piece.source.dtype.itemsize
                copies.append(_Copy(tensor, piece, count, moves))
            tensors[key] = tensor
        return tensors
