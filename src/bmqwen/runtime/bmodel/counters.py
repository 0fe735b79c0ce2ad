"""What a runtime asked of its device, counted: each of these costs the host time."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Calls and bytes since loading.

    Attributes:
        launches: nets started.
        writes, bytes_in: copies to the device.
        reads, bytes_out: copies from it.
        device_copies, device_bytes: inputs that the device itself copied, being given in memory that is not the net's.
        row_copies, row_bytes: outputs that it wrote to the net's memory first and then copied to their place.
    """

    launches: int = 0
    writes: int = 0
    bytes_in: int = 0
    reads: int = 0
    bytes_out: int = 0
    device_copies: int = 0
    device_bytes: int = 0
    row_copies: int = 0
    row_bytes: int = 0

    def __sub__(self, earlier: "Counters") -> "Counters":
        """What came since `earlier`."""
        return Counters(*(getattr(self, n) - getattr(earlier, n) for n in self.__slots__))
