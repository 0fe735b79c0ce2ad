"""What the host costs besides the chip: every call of the device library takes it some time, and so does Python."""

from dataclasses import replace

from bmqwen.chip.spec import Host
from bmqwen.errors import InputError

LONGEST_MS = 1000.0


def custom_host(host: Host, op_ms: float) -> Host:
    """Return the machine with calls that take so many milliseconds. Raises InputError for a time that no call takes."""
    if not 0 <= op_ms <= LONGEST_MS:
        raise InputError(f"--host-op-ms {op_ms:g} is no time of a call: choose 0 to {LONGEST_MS:g}")
    return replace(host, name=f"{op_ms:g} ms a call", op_ms=op_ms)


# What the step runtime asks of the device for a launch: its inputs in one copy, and the launch itself. Reading what
# comes of it, four bytes for the likeliest token, is one more.
LAUNCH_OPS = 2
READ_OPS = 1

# This program's own Python in milliseconds: a prompt, each of its tokens, and a token of the answer. Measured with
# benchmarks/host_time.py on an EPYC with AVX-512 (November 2026, Python 3.11: 0.2 ms for a prompt of 20 tokens, 3.9 of
# 4,000, 0.029 a token), and a fifth more for the calls through ctypes. `Host.python_factor` scales it.
PROMPT_MS, PROMPT_TOKEN_MS, TOKEN_MS = 0.2, 0.001, 0.035
