"""Error-compensating rounding, against plain rounding and against its own definition."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.quant.gptq import DAMPING, Compensation, damp, factor_in_place
from bmqwen.quant.rounding import quantize

Matrix = NDArray[np.float32]


def example(rows: int = 48, columns: int = 192, tokens: int = 600) -> tuple[Matrix, Matrix]:
    """Weights [rows, columns], and the moments of inputs that are correlated and of unequal size."""
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    inputs = (rng.standard_normal((tokens, columns)) @ mixing).astype(np.float32)
    return rng.standard_normal((rows, columns)).astype(np.float32), inputs.T @ inputs


def loss(matrix: Matrix, rounded: Matrix, moments: Matrix) -> float:
    error = (matrix - rounded).astype(np.float64)
    return float(np.trace(error @ moments @ error.T))


def test_feedback_and_weights_are_a_factorisation_of_the_moments() -> None:
    _, moments = example()
    made = Compensation.prepare(moments.copy(), 600, 4, 64)
    assert not np.tril(made.feedback, -1).any()
    np.testing.assert_allclose(np.diagonal(made.feedback), 1, rtol=1e-6)
    wanted = damp(moments.copy(), DAMPING * 192 / 600)[np.ix_(made.order, made.order)]
    np.testing.assert_allclose(
        (made.feedback * made.weights) @ made.feedback.T, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()
    )


def test_the_factor_is_that_of_numpy() -> None:
    _, moments = example()
    a = damp(moments.copy(), 0.1)
    factor = a.copy()
    factor_in_place(factor, block=50)
    np.testing.assert_allclose(factor, np.linalg.cholesky(a), rtol=0, atol=1e-4 * np.abs(factor).max())
    with pytest.raises(np.linalg.LinAlgError):
        factor_in_place(-a)


def test_groups_stay_together_and_come_by_energy() -> None:
    _, moments = example(columns=160)  # the last group is half a one
    made = Compensation.prepare(moments.copy(), 600, 4, 64)
    assert sorted(made.order) == list(range(160))
    energy = np.diagonal(moments)
    means = []
    for group, start, stop in made.groups:
        columns = made.order[start:stop]
        assert set(columns) == set(range(group * 64, min(group * 64 + 64, 160)))
        assert (np.diff(energy[columns]) <= 0).all()
        means.append(energy[columns].mean())
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 64)])
def test_it_loses_less_than_rounding_to_nearest(bits: int, group: int) -> None:
    weights, moments = example()
    nearest = quantize(weights, bits, group, search=False).dequantize()
    searched = quantize(weights, bits, group).dequantize()
    made = Compensation.prepare(moments.copy(), 600, bits, group)
    first, swept = (made.round(weights, sweeps).dequantize() for sweeps in (0, 2))
    least = min(loss(weights, nearest, moments), loss(weights, searched, moments))
    assert loss(weights, first, moments) < 0.6 * least
    assert loss(weights, swept, moments) < 0.95 * loss(weights, first, moments)


def test_a_grid_is_one_that_the_chip_holds() -> None:
    weights, moments = example()
    grid = Compensation.prepare(moments.copy(), 600, 4, 64).round(weights)
    assert grid.codes.max() <= 15
    assert grid.zeros.max() <= 15
    assert (grid.scales == grid.scales.astype(np.float16)).all()
    assert (grid.scales > 0).all()
    assert grid.codes.shape == (48, 192)
    assert grid.scales.shape == grid.zeros.shape == (48, 3)


def test_weights_on_a_grid_stay_there() -> None:
    weights, moments = example()
    grid = quantize(weights, 8, 64, search=False).dequantize()
    again = Compensation.prepare(moments.copy(), 600, 8, 64).round(grid).dequantize()
    assert loss(grid, again, moments) < 1e-5 * loss(weights, grid, moments)


@pytest.mark.parametrize("tokens", [1, 40])
def test_moments_of_too_few_tokens_do_no_harm(tokens: int) -> None:
    weights, _ = example()
    inputs = np.random.default_rng(1).standard_normal((tokens, 192)).astype(np.float32)
    inputs[:, 7] = 0  # a column that is never used
    grid = Compensation.prepare(inputs.T @ inputs, tokens, 4, 64).round(weights).dequantize()
    nearest = quantize(weights, 4, 64, search=False).dequantize()
    assert np.isfinite(grid).all()
    assert loss(weights, grid, inputs.T @ inputs) < loss(weights, nearest, inputs.T @ inputs)
    # What the text did not show is rounded all the same, no worse than to a grid of a fraction of its range.
    assert np.abs(weights - grid).max() < 2 * np.abs(weights).max()


def test_rows_do_not_depend_on_each_other() -> None:
    weights, moments = example()
    made = Compensation.prepare(moments.copy(), 600, 4, 64)
    whole, half = made.round(weights), made.round(weights[:24])
    np.testing.assert_array_equal(whole.codes[:24], half.codes)
