"""Libraries, device and model opened together: what a runtime on a chip or in a worker starts from."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from bmqwen.runtime.bmodel.backend import Memory, Network, Port, Stage
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.launch import InputBlock, PreparedLaunch
from bmqwen.runtime.bmrt.libraries import load_libraries
from bmqwen.runtime.bmrt.model import Model


class BmrtBackend:
    """A device with one bmodel, a `DeviceBackend`. Closing it closes both.

    Attributes:
        device, model: what it holds.
        chip: the chip's name.
        library: what opened it, for people.
    """

    library = "libbmrt"

    def __init__(self, device: Device, model: Model) -> None:
        """Take both over."""
        self.device, self.model = device, model
        self.chip = device.chip

    @classmethod
    def open(
        cls, bmodel: Path, needed: int = 0, *, folder: Path | None = None, index: int = 0
    ) -> "BmrtBackend":
        """Open a device and load a bmodel.

        Args:
            bmodel: the file.
            needed: bytes of device memory that it takes (0: as many as the file has).
            folder: of the libraries (None: a chip's).
            index: which device.

        Raises:
            MissingDependencyError: no libraries.
            BundleError, DeviceError: the bmodel cannot be loaded.
        """
        with ExitStack() as undo:
            device = undo.enter_context(Device(load_libraries(folder), index))
            session = cls(device, Model(device, bmodel, needed=needed))
            undo.pop_all()
        return session

    def __str__(self) -> str:
        return str(self.device)

    @property
    def path(self) -> Path:
        """The bmodel's file."""
        return self.model.path

    @property
    def networks(self) -> Mapping[str, Network]:
        """Its nets by name."""
        return self.model.networks

    def allocate(self, port: Port) -> DeviceMemory:
        """As `DeviceBackend.allocate`."""
        return self.device.allocate(port.nbytes)

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> InputBlock:
        """As `DeviceBackend.inputs`: one copy for all."""
        return InputBlock(self.device, ports, avoid)

    def prepare(
        self,
        stage: Stage,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        moving: Sequence[int] = (),
    ) -> PreparedLaunch:
        """As `DeviceBackend.prepare`."""
        given, taken = cast(Sequence[DeviceMemory], inputs), cast(Sequence[DeviceMemory], outputs)
        return PreparedLaunch(self.model, stage, given, taken, moving)

    def synchronize(self) -> None:
        """Wait for all launches."""
        self.device.synchronize()

    def memory_used(self) -> int | None:
        """As `DeviceBackend.memory_used`."""
        return self.device.used()

    def close(self) -> None:
        """Free everything. May be called twice."""
        self.device.close()
