"""Rounding float weights to a group grid: plain, and with the range searched for the least squared error."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError, InputError
from bmqwen.weights.weights import Grid

# Share of a group's range that is kept. Cutting off outliers makes the steps finer for all others.
SHRINKS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)


def check_group_size(bits: int, group_size: int) -> None:
    """Raise InputError unless both runtimes can hold such a grid."""
    if bits not in (4, 8):
        raise InputError(f"weights of {bits} bits are not supported: choose 4 or 8")
    if group_size not in (16, 32, 64, 128, 256):
        raise InputError(f"group size {group_size} is not supported: choose 16, 32, 64, 128 or 256")


def quantize(weights: NDArray[np.float32], bits: int, group_size: int, *, search: bool = True) -> Grid:
    """Put a float32 matrix [N, K] on an asymmetric grid.

    With `search`, each group's range is the one of `SHRINKS` with the least squared error. 8-bit grids are fine enough
    without.

    Raises:
        InputError: bits or group size unsupported.
    """
    check_group_size(bits, group_size)
    rows, columns = weights.shape
    groups = -(-columns // group_size)
    if columns % group_size:
        weights = np.pad(weights, ((0, 0), (0, groups * group_size - columns)), mode="edge")
    values = weights.reshape(rows, groups, group_size)
    codes, scale, zero = fit_grid(values, bits, SHRINKS if search and bits < 8 else (1.0,))
    return Grid(
        codes=codes.reshape(rows, -1)[:, :columns],
        scales=scale[..., 0],
        zeros=zero[..., 0].astype(np.uint8),
        bits=bits,
        group_size=group_size,
    )


def fit_grid(
    values: NDArray[np.float32],
    bits: int,
    shrinks: Sequence[float],
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Find the grid of each group of values [N, G, size] with the least squared error.

    Args:
        shrinks: shares of a group's range to try, applied to both its ends; where there are several, the scale is
            refitted by least squares to the codes chosen.
        weights: what the squared error of each column of a group counts, float32 [size]; None: the same.

    Returns:
        Codes as `values`, scales that float16 holds and zero points, both float32 [N, G, 1].
    """
    top = float(2**bits - 1)
    low = np.minimum(values.min(axis=2, keepdims=True), 0)
    high = np.maximum(values.max(axis=2, keepdims=True), 0)
    weights = np.ones(values.shape[2], np.float32) if weights is None else weights
    best_codes = np.empty(0, np.uint8)
    best_error = best_scale = best_zero = np.empty(0, np.float32)
    for shrink in shrinks:
        scale = _half((high - low) * (shrink / top))
        zero = np.clip(np.rint(-low * shrink / scale), 0, top)
        codes = values / scale
        np.rint(codes, out=codes)
        codes += zero
        np.clip(codes, 0, top, out=codes)
        steps = codes - zero
        if len(shrinks) > 1:
            # argmin over s of |v - s q|^2 is <v, q> / <q, q>
            numerator = np.einsum("ngk,ngk,k->ng", values, steps, weights)[..., None]
            denominator = np.einsum("ngk,ngk,k->ng", steps, steps, weights)[..., None]
            fitted = np.divide(numerator, denominator, out=scale.copy(), where=denominator > 0)
            scale = _half(np.where(fitted > 0, fitted, scale))
        # An infinite scale makes NaN, which is found afterwards.
        with np.errstate(invalid="ignore"):
            steps *= scale
        steps -= values
        error = np.einsum("ngk,ngk,k->ng", steps, steps, weights)[..., None]
        if not best_codes.size:
            best_codes, best_error, best_scale, best_zero = codes.astype(np.uint8), error, scale, zero
            continue
        better = error < best_error
        np.copyto(best_codes, codes.astype(np.uint8), where=better)
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero, best_zero)
    return best_codes, best_scale, best_zero


def _half(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales as float16 can hold them, never zero; infinite where it cannot (`require_scales`)."""
    smallest = np.float32(2.0**-20)
    with np.errstate(over="ignore"):
        rounded: NDArray[np.float32] = np.maximum(scale, smallest).astype(np.float16).astype(np.float32)
    return rounded


def require_scales(grid: Grid, name: str) -> Grid:
    """Return the grid itself. Raises CheckpointError, which names the tensor, for a scale beyond half precision."""
    if not np.isfinite(grid.scales).all():
        raise CheckpointError(
            f"{name} holds values of {float(np.finfo(np.float16).max):,.0f} steps and more, whose scale half precision "
            "cannot hold: choose --quant f16, or download the model again"
        )
    return grid
