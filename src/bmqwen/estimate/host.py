"""What the host costs besides the chip: every call of the device library takes it some time."""

from dataclasses import dataclass

from bmqwen.artifact.steps import LAUNCH_NS
from bmqwen.errors import InputError

LONGEST_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that the chip is in.

    Attributes:
        name: for people.
        op_ms: a launch, or a copy to or from the device.
    """

    name: str
    op_ms: float

    def __post_init__(self) -> None:
        if not 0 <= self.op_ms <= LONGEST_MS:
            raise InputError(f"--host-op-ms {self.op_ms:g} is no time of a call: choose 0 to {LONGEST_MS:g}")


# The SE7 box's A53 cores: fitted to four published speeds, 0.1404 to 0.1451. A card in a PCIe slot: an assumption.
# Three bmodels were published on both, 0.286, 0.409 and 0.468 for each call if the host alone makes the difference
# (MiniCPM3 4B 10.047 and 7.891 tokens/s, Llama 3.2 11B 7.506 and 6.024, Janus Pro 7B 7.963 and 6.416).
HOSTS = {"se7": Host("SE7", LAUNCH_NS / 1e6), "pcie": Host("PCIe card (assumed)", 0.41)}

# What the step runtime asks of the device for a launch: its inputs in one copy, and the launch itself. Reading what
# comes of it, four bytes for the likeliest token, is one more.
LAUNCH_OPS = 2
READ_OPS = 1
