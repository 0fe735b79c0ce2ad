"""Half-precision numbers as bits: numpy has F16 but no BF16, so both travel as uint16."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Half = Literal["f16", "bf16"]
# Beyond this a number of type "f16" is infinite.
MOST_F16 = 65504.0


def to_half(values: NDArray[Any], half: str) -> NDArray[np.uint16]:
    """Return the bits of the nearest numbers of type `half`, "f16" or "bf16" (ties to even)."""
    if half == "f16":
        return np.ascontiguousarray(values, np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_half(bits: NDArray[np.uint16], half: str) -> NDArray[np.float32]:
    """Return those numbers as float32."""
    if half == "f16":
        return bits.view(np.float16).astype(np.float32)
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
