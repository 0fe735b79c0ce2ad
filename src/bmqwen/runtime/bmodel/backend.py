"""What a runtime needs of a device: memory, nets and launches, of which libbmrt by ctypes and SAIL are two kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import BundleError, DeviceError

# What tensors may be, as bm_data_type_t numbers the types from 0 on and SAIL's Dtype names them, behind "BM_".
# BF16 has no numpy type: its bits travel as uint16.
BFLOAT16 = "bfloat16"
TYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", BFLOAT16)
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype("uint16" if name == BFLOAT16 else name) for name in TYPES
}


class Memory(Protocol):
    """A piece of device memory. Offsets and sizes are bytes; what lies outside of it is a DeviceError."""

    @property
    def size(self) -> int:
        """Bytes."""

    def view(self, offset: int, size: int) -> "Memory":
        """A part of it."""

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        """Copy an array to the device."""

    def read(self, array: NDArray[Any], offset: int = 0) -> None:
        """Fill a contiguous array from the device."""


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
    """Raise DeviceError unless there is enough memory for each port of a launch; `what` is "input" or "output"."""
    if len(memory) != len(ports):
        raise DeviceError(f"net {stage.net} takes {len(ports)} {what}s, not {len(memory)}")
    for port, piece in zip(ports, memory, strict=True):
        if piece.size < port.nbytes:
            raise DeviceError(
                f"{what} {port.name} of net {stage.net} needs {port.nbytes} bytes, not {piece.size}"
            )


def check_range(offset: int, size: int, whole: int) -> None:
    """Raise DeviceError unless `size` bytes from `offset` on lie within device memory of `whole` bytes."""
    if offset < 0 or size < 0 or offset + size > whole:
        raise DeviceError(f"bytes {offset} to {offset + size} lie outside of device memory of {whole} bytes")


def _port(ports: tuple[Port, ...], name: str, net: str) -> Port:
    for port in ports:
        if port.name == name:
            return port
    raise BundleError(f"net {net} has no {name}: it has {', '.join(port.name for port in ports)}")


class Inputs(Protocol):
    """The small inputs of a stage, written together before each launch.

    Attributes:
        arrays: what is to be written, by the input's name; halves as uint16.
        memory: where the inputs are for a launch, by name.
        writes: copies to the device that one `write` takes.
        nbytes: bytes that it copies.
    """

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]: ...
    @property
    def memory(self) -> Mapping[str, Memory]: ...
    @property
    def writes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def write(self) -> None:
        """Copy everything to the device."""


class Launch(Protocol):
    """A stage with its memory.

    Attributes:
        copies, copied_bytes: inputs that the device will copy, not being in the stage's own memory.
    """

    @property
    def copies(self) -> int: ...
    @property
    def copied_bytes(self) -> int: ...
    def start(self, offset: int = 0) -> None:
        """Launch; outputs that move go `offset` bytes beyond their memory's start. Raises DeviceError."""


class DeviceBackend(Protocol):
    """An open device with one bmodel; `str` names the device ("device 0").

    Attributes:
        chip: name of the kind of chip.
        library: what opened it, for people.
        path: the bmodel's file.
        networks: its nets by name.
    """

    @property
    def chip(self) -> str: ...
    @property
    def library(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def networks(self) -> Mapping[str, Network]: ...

    def allocate(self, port: Port) -> Memory:
        """Memory of its own for data of a port's shape and type. Raises DeviceError when there is not enough."""

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> Inputs:
        """Host and device memory for small inputs.

        Args:
            ports: the inputs.
            avoid: inputs and outputs whose own memory must not be written to; None: the nets' own memory is not to
                be used at all.
        """

    def prepare(
        self,
        stage: Stage,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        moving: Sequence[int] = (),
    ) -> Launch:
        """A stage made ready.

        Args:
            stage: what to launch.
            inputs, outputs: memory in the order of the stage's; it stays alive as long as the launch.
            moving: indices of outputs that `start` may be told to write further on.

        Raises:
            DeviceError: memory too small for its input or output.
        """

    def synchronize(self) -> None:
        """Wait for all launches."""

    def memory_used(self) -> int | None:
        """Bytes of device memory in use by all programs; None when the device does not tell."""

    def close(self) -> None:
        """Free everything. May be called twice."""


BackendOpener = Callable[[Path, int], DeviceBackend]
"""Opens a bmodel's file that takes so many bytes of device memory.

Raises MissingDependencyError without the vendor's libraries, BundleError for a bad file, DeviceError for all else.
"""
