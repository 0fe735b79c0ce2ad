"""What every runtime of a bmodel has: the device that holds it, its limits, and the number of its last feed."""

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import FeedInterruptedError, InputError
from bmqwen.runtime.bmodel.backend import BackendOpener


class LoadedBmodel:
    """A bundle's bmodel on a device; a runtime's nets go on from here, and set the two limits."""

    _vocab_size: int
    _context_length: int

    def __init__(self, bundle: Bundle, open_backend: BackendOpener) -> None:
        """Open the device and load the bmodel.

        Raises:
            MissingDependencyError: no libraries.
            DeviceError: no device, not enough memory, or a refused bmodel.
        """
        self._backend = open_backend(bundle.bmodel, device_bytes(bundle))
        self._serial = 0
        self._interrupted = False

    @property
    def name(self) -> str:
        """Chip, device, and the library that opened it."""
        return f"{self._backend.chip}, {self._backend}, {self._backend.library}"

    @property
    def chip(self) -> str:
        """The chip's name."""
        return self._backend.chip

    @property
    def library(self) -> str:
        """What opened the device, for people."""
        return self._backend.library

    @property
    def memory_used(self) -> int | None:
        """Bytes of device memory in use, by whomever; None when the device does not tell."""
        return self._backend.memory_used()

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens that the cache can hold."""
        return self._context_length

    def interrupt(self) -> None:
        """End a feed between two launches."""
        self._interrupted = True

    def close(self) -> None:
        """Free everything. May be called twice."""
        self._backend.close()

    def _begin_feed(self) -> None:
        """What was computed before is no longer to be had."""
        self._serial += 1
        self._interrupted = False

    def _check_interrupt(self) -> None:
        if self._interrupted:
            raise FeedInterruptedError("reading was interrupted")

    def _check_current(self, serial: int) -> None:
        if serial != self._serial:
            raise InputError("this output is no longer there: more tokens were fed since")


def device_bytes(bundle: Bundle) -> int:
    """Device memory that a bundle takes: as its manifest says, else as large as its bmodel; in bytes."""
    stated = bundle.details.get("device_bytes")
    return stated if isinstance(stated, int) and stated > 0 else bundle.bmodel.stat().st_size
