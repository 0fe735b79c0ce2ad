"""Libraries, device and model opened together: what a runtime on a chip or in a worker starts from."""

from contextlib import ExitStack
from pathlib import Path

from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import load_libraries
from bmqwen.runtime.bmrt.model import Model


class Session:
    """A device with one bmodel. Closing it closes both."""

    def __init__(self, bmodel: Path, *, folder: Path | None = None, index: int = 0, needed: int = 0) -> None:
        """Open the device and load the bmodel.

        Args:
            bmodel: the file.
            folder: of the libraries (None: a chip's).
            index: which device.
            needed: bytes of device memory that the bmodel takes.

        Raises:
            MissingDependencyError: no libraries.
            BundleError, DeviceError: the bmodel cannot be loaded.
        """
        with ExitStack() as stack:
            self.device = stack.enter_context(Device(load_libraries(folder), index))
            self.model = Model(self.device, bmodel, needed=needed)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Free everything. May be called twice."""
        self._stack.close()
