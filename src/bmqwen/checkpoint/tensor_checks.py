"""Checks that every reader of tensors makes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError


def require_finite(values: NDArray[np.float32], name: str, path: Path) -> NDArray[np.float32]:
    """`values` themselves. Raises CheckpointError, which names the tensor, unless all are finite."""
    # The sum is finite only if no value is NaN or infinite, and needs no array of booleans.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise CheckpointError(f"{path}: tensor {name} holds NaN or infinite values; download the file again")
    return values


def require_rows(name: str, shape: tuple[int, ...], start: int, stop: int) -> int:
    """Columns of a tensor. Raises CheckpointError unless it is a matrix that has rows [start, stop)."""
    if len(shape) != 2 or not 0 <= start <= stop <= shape[0]:
        raise CheckpointError(f"tensor {name} of shape {list(shape)} has no rows {start} to {stop}")
    return shape[1]
