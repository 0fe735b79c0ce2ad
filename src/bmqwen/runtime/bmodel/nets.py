"""The nets of a loaded bmodel: their stages, and the inputs and outputs of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmqwen.errors import BundleError, DeviceError
from bmqwen.runtime.bmodel.memory import Memory


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a stage.

    Attributes:
        name: as compiled.
        shape: elements along each axis.
        dtype: numpy's, uint16 for BF16.
        bfloat16: the 16 bits are a BF16 number.
        memory: where its data are best kept: the stage's own memory wherever that can be had.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bfloat16: bool
    memory: Memory

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stage:
    """One set of shapes of a net."""

    net: str
    index: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def input(self, name: str) -> Port:
        """An input by name. Raises BundleError for one that the net does not have."""
        return _port(self.inputs, name, self.net)

    def output(self, name: str) -> Port:
        """An output by name. Raises BundleError for one that the net does not have."""
        return _port(self.outputs, name, self.net)


@dataclass(frozen=True, slots=True)
class Network:
    """A net of a bmodel: `address_mode` 0 is basic, 1 io_alone (its inputs are kept apart from what others compute)."""

    name: str
    dynamic: bool
    address_mode: int
    stages: tuple[Stage, ...]


def check_fits(stage: Stage, what: str, ports: Sequence[Port], memory: Sequence[Memory]) -> None:
    """Raise DeviceError unless there is enough memory for each input or output of a launch, whatever `what` says."""
    if len(memory) != len(ports):
        raise DeviceError(f"net {stage.net} takes {len(ports)} {what}s, not {len(memory)}")
    for port, piece in zip(ports, memory, strict=True):
        if piece.size < port.nbytes:
            raise DeviceError(
                f"{what} {port.name} of net {stage.net} needs {port.nbytes} bytes, not {piece.size}"
            )


def _port(ports: tuple[Port, ...], name: str, net: str) -> Port:
    for port in ports:
        if port.name == name:
            return port
    raise BundleError(f"net {net} has no {name}: it has {', '.join(port.name for port in ports)}")
