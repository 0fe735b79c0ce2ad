"""What the host costs besides the chip: every call of the device library takes it some time."""

from bmqwen.chip.spec import Host
from bmqwen.errors import InputError

LONGEST_MS = 1000.0


def custom_host(op_ms: float) -> Host:
    """Return a machine whose calls take so many milliseconds. Raises InputError for a time that no call takes."""
    if not 0 <= op_ms <= LONGEST_MS:
        raise InputError(f"--host-op-ms {op_ms:g} is no time of a call: choose 0 to {LONGEST_MS:g}")
    return Host(f"{op_ms:g} ms a call", op_ms)


# What the step runtime asks of the device for a launch: its inputs in one copy, and the launch itself. Reading what
# comes of it, four bytes for the likeliest token, is one more.
LAUNCH_OPS = 2
READ_OPS = 1
