"""The states of recurrent layers in compiled nets: their sizes, and what a net is told of them."""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.steps import StepShape
from bmqwen.model.config import ModelConfig

HALF = 2
# What a net is told of its tokens before each launch, and what it is told once.
COMMITTED, ROWS, MASKS = "committed", "state_rows", "delta_masks"


def state_names(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the states by the names of a net's inputs, "conv_state.0"."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in config.state_layers:
        shapes[f"conv_state.{layer}"] = (1, *config.linear_sizes.conv_state)
        shapes[f"delta_state.{layer}"] = (1, *config.linear_sizes.delta_state)
    return shapes


def is_convolution(name: str) -> bool:
    """Tell whether one of `state_names` is of a convolution: [1, rows, width]."""
    return name.startswith("conv_")


def written_name(name: str) -> str:
    """Return the name of the output that takes the place of an input of `state_names`: "conv_after.0"."""
    return name.replace("_state", "_after")


def uses_kernel(config: ModelConfig, tokens: int) -> bool:
    """Tell whether a net of so many tokens has the chip's own kernel of the delta rule, which takes one.

    It changes the state where that lies: the output is where the input is.
    """
    one = config.linear_sizes
    return tokens == 1 and one.linear_key_head_dim == one.linear_value_head_dim


def copied_states(config: ModelConfig, tokens: int) -> list[str]:
    """Return which of `state_names` a net of so many tokens writes elsewhere; they are copied from there."""
    names = state_names(config)
    return [name for name in names if is_convolution(name) or not uses_kernel(config, tokens)]


def state_bytes(config: ModelConfig, names: Iterable[str] | None = None) -> int:
    """Return the bytes of a sequence's states on a chip: of those of `state_names` that are named, None: of all."""
    shapes = state_names(config)
    return HALF * sum(math.prod(shapes[name]) for name in (shapes if names is None else names))


def state_inputs(config: ModelConfig, shape: StepShape) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the other inputs of a net with states, by name; none for a model without.

    `committed` half, 1 for each token that the states are to have seen after the step, which are the first ones, else
    0; `state_rows` int32, the rows that the convolution is to remember, of those that it has and the step's;
    `delta_masks` half, see `delta_masks`.
    """
    if not config.state_layers:
        return {}
    tokens = shape.tokens
    return {
        COMMITTED: (1, 1, 1, tokens),
        ROWS: (config.linear_sizes.linear_conv_kernel_dim - 1,),
        MASKS: (1, 1, *delta_masks(tokens).shape),
    }


def levels(tokens: int) -> int:
    """Return in how many doublings one token becomes as many."""
    return math.ceil(math.log2(tokens))


@cache
def delta_masks(tokens: int) -> NDArray[np.float32]:
    """Return the matrices [T, T] that the rule over so many tokens needs, one below the other.

    They are inputs and not weights: nets share their weights only where those are the same to the last byte. First
    what is on or below the diagonal; the diagonal; for blocks of 1, 2, 4 ... less what lies below each pair of them;
    for each token i a matrix whose row j has 1 for the tokens behind j up to i. For one token: 1.
    """
    if tokens == 1:
        return np.ones((1, 1), np.float32)
    at = np.arange(tokens)
    row, column = at[:, None], at
    parts = [row >= column, row == column]
    for level in range(levels(tokens)):
        pair = row >> (level + 1) == column >> (level + 1)
        parts.append(-1.0 * (pair & (row >> level & 1 > column >> level & 1)))
    parts += [(column > row) & (column <= token) for token in range(tokens)]
    return np.concatenate(parts).astype(np.float32)
