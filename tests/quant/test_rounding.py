"""Group grids: what a grid means, how good the rounding is, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bmqwen.errors import InputError
from bmqwen.quant.formats import pack_nibbles
from bmqwen.quant.precision import Precision
from bmqwen.quant.rounding import quantize
from bmqwen.weights.weights import Grid


def random_weights(seed: int, rows: int = 24, columns: int = 192) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, columns)) * 0.02).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [16, 32, 64, 128])
def test_error_stays_within_half_a_step(bits: int, group_size: int) -> None:
    weights = random_weights(1)
    grid = quantize(weights, bits, group_size, search=False)
    groups = -(-weights.shape[1] // group_size)
    assert grid.codes.shape == weights.shape
    assert grid.scales.shape == grid.zeros.shape == (weights.shape[0], groups)
    steps = np.repeat(grid.scales, group_size, axis=1)[:, : weights.shape[1]]
    # Half a step from the code, half a step from the rounded zero point; float16 rounding of the scale on top.
    assert np.all(np.abs(grid.dequantize() - weights) <= steps * (1 + 2.0**-10 * 2**bits) + 1e-7)


def test_search_beats_plain_rounding() -> None:
    weights = random_weights(2, rows=64, columns=512)
    plain, searched = (quantize(weights, 4, 64, search=s).dequantize() for s in (False, True))
    error = [float(np.square(w - weights).mean()) for w in (plain, searched)]
    assert error[1] < 0.95 * error[0]


def test_values_on_the_grid_stay() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (8, 64), np.uint8)
    codes[:, ::32], codes[:, 1::32] = 0, 15
    grid = Grid(codes, np.full((8, 2), 0.125, np.float32), np.full((8, 2), 7, np.uint8), 4, 32)
    np.testing.assert_array_equal(quantize(grid.dequantize(), 4, 32).dequantize(), grid.dequantize())


@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.floats(-6, 3))
@settings(max_examples=40, deadline=None)
def test_any_finite_weights_give_finite_grids(seed: int, bits: int, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((3, 40)) * 10**magnitude).astype(np.float32)
    weights[0] = 0
    weights[1] = abs(weights[1])
    grid = quantize(weights, bits, 32)
    assert np.isfinite(grid.dequantize()).all()
    assert grid.codes.max() < 2**bits
    assert np.abs(grid.dequantize()[0]).max() == 0
    np.testing.assert_array_equal(grid.scales, grid.scales.astype(np.float16).astype(np.float32))


def test_nibbles_are_packed_low_first() -> None:
    packed = pack_nibbles(np.array([[1, 2, 3]], np.uint8))
    np.testing.assert_array_equal(packed, [[0x21, 0x03]])


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="int3"):
        Precision("int3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="group size 48"):
        Precision("int4", 48)
