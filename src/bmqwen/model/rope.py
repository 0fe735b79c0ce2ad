"""The rotary position embedding: its tables, and how YaRN stretches them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bmqwen.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN's constants, static (arXiv 2309.00071), named as in Hugging Face's config.json.

    Attributes:
        factor: how many times longer a context is than what the model was trained for.
        original_max_position_embeddings: what it was trained for, in tokens.
        attention_factor: what cosines and sines are multiplied with.
        beta_fast, beta_slow: rotations over the original context above which a pair of the head's elements keeps its
            frequency, and below which it is slowed down by `factor`; in between is a ramp.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0


def yarn_attention_factor(factor: float) -> float:
    """Return what the paper recommends (section 3.4): 0.1 ln(factor) + 1."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_tables(config: "ModelConfig", positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines of positions 0 to `positions` - 1, each float32 [positions, rotary_dim / 2].

    Angle of position p and pair i: p * theta ** (-2 i / rotary_dim) (RoFormer, arXiv 2104.09864, section 3.4.2).
    """
    # In float32 as in the reference implementation: at high positions its rounding is visible.
    exponent = np.arange(config.rotary_dim // 2, dtype=np.float32) * 2 / config.rotary_dim
    frequency = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    scale = np.float32(1.0)
    if (yarn := config.yarn) is not None:
        share = _slowed_share(config, yarn)
        frequency = frequency / np.float32(yarn.factor) * share + frequency * (1 - share)
        scale = np.float32(yarn.attention_factor)
    angles = np.outer(np.arange(positions, dtype=np.float32), frequency)
    return np.cos(angles) * scale, np.sin(angles) * scale


def _slowed_share(config: "ModelConfig", yarn: Yarn) -> NDArray[np.float32]:
    """How much of each pair's frequency is the slowed one: 0 for the fastest pairs, 1 for the slowest."""
    dim = config.rotary_dim

    def pair(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(config.rope_theta))

    low, high = max(math.floor(pair(yarn.beta_fast)), 0), min(math.ceil(pair(yarn.beta_slow)), dim - 1)
    span = high - low or 0.001
    share: NDArray[np.float32] = np.clip(
        (np.arange(dim // 2, dtype=np.float32) - low) / np.float32(span), 0, 1
    )
    return share
