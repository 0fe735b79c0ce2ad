"""Rotary position embedding: the angles, the same for every emitter."""

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import ModelConfig


def rope_angles(config: ModelConfig, positions: int) -> NDArray[np.float32]:
    """Angles of positions 0 to `positions` - 1, float32 [positions, head_dim / 2].

    Angle of position p and pair i: p * theta ** (-2 i / head_dim) (RoFormer, arXiv 2104.09864, section 3.4.2).
    """
    # In float32 as in the reference implementation: at high positions its rounding is visible.
    exponent = np.arange(config.head_dim // 2, dtype=np.float32) * 2 / config.head_dim
    frequency = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    angles: NDArray[np.float32] = np.outer(np.arange(positions, dtype=np.float32), frequency)
    return angles
