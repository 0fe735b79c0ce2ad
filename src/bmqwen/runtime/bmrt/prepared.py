"""A launch whose tensors are made once: of the many that a token needs, only addresses of K/V rows change."""

import ctypes as c
from collections.abc import Sequence

import numpy as np

from bmqwen.runtime.bmodel.nets import Stage
from bmqwen.runtime.bmrt.device import DeviceMemory
from bmqwen.runtime.bmrt.model import Model, own_memory, tensors
from bmqwen.runtime.bmrt.structs import DeviceMem, Tensor

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
    """A stage with its memory.

    Attributes:
        copies, copied_bytes: inputs that the device will copy, not being in the stage's own memory.
    """

    def __init__(
        self,
        model: Model,
        stage: Stage,
        inputs: Sequence[DeviceMemory],
        outputs: Sequence[DeviceMemory],
        moving: Sequence[int] = (),
    ) -> None:
        """Check and keep the memory of each input and output.

        Args:
            model: whose stage it is.
            stage: what to launch.
            inputs, outputs: memory in the order of the stage's.
            moving: indices of outputs that `start` may be told to write further on.

        Raises:
            DeviceError: memory too small for its input or output.
        """
        self._model, self._stage = model, stage
        self._given = tensors(stage, "input", stage.inputs, inputs)
        self._taken = tensors(stage, "output", stage.outputs, outputs)
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
        """Launch; outputs that move go `offset` bytes beyond their memory's start. Raises DeviceError."""
        self._addresses[self._moving] = self._bases + np.uint64(offset)
        self._model.start(self._stage, self._given, self._taken)
