"""Grids that a checkpoint brings: taken over as they are where a precision can hold them."""

import numpy as np

from bmqwen.quant.grid import Grid
from bmqwen.weights.packed import GridSource
from bmqwen.weights.weights import Weights


def keeps_grid(weights: Weights, name: str, bits: int, group_size: int) -> bool:
    """Whether a weight's stored grid has these bits, and groups as long or made up of such."""
    found = weights.grid_of(name) if isinstance(weights, GridSource) else None
    return found is not None and found[0] == bits and found[1] % group_size == 0


def stored_rows(weights: GridSource, name: str, start: int, stop: int, bits: int, group_size: int) -> Grid:
    """Rows [start, stop) of a weight for which `keeps_grid` holds."""
    grid = weights.read_grid(name, start, stop)
    parts = grid.codes.shape[1] // group_size // grid.scales.shape[1]
    scales, zeros = np.repeat(grid.scales, parts, axis=1), np.repeat(grid.zeros, parts, axis=1)
    return Grid(grid.codes, scales, zeros, bits, group_size)
