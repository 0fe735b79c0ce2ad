"""What a runtime needs of a device: the border that libbmrt by ctypes and SAIL are two sides of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from bmqwen.runtime.bmodel.memory import Memory
from bmqwen.runtime.bmodel.nets import Network, Port, Stage


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
        """Bytes of device memory in use, by whomever; None when the device does not tell."""

    def close(self) -> None:
        """Free everything. May be called twice."""


BackendOpener = Callable[[Path, int], DeviceBackend]
"""Opens a bmodel's file that takes so many bytes of device memory.

Raises MissingDependencyError without the vendor's libraries, BundleError for a bad file, DeviceError for all else.
"""
