"""Rounding a matrix for the least error of its products with calibration inputs, not of its values.

With X the inputs of a projection, float32 [tokens, K], and H = X^T X, the error of rounding W to Q is
tr((W - Q) H (W - Q)^T). Columns are rounded one after the other, each after what the rounding of those before it did to
the products was added to it: GPTQ (arXiv 2210.17323), in the form of LDLQ (arXiv 2307.13304, section 3), which is the
same and needs no inverse. Groups are taken by falling energy of their inputs, columns within a group likewise
(GPTQModel's group-aware order), so that a group's columns stay together. Then every scale is fitted and every column
rounded once more, given all others: coordinate descent (QuantEase, arXiv 2309.01885).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.quant.rounding import fit_grid
from bmqwen.weights.weights import Grid

Matrix = NDArray[np.float32]

# What is added to H's diagonal, as a share of it, times K / tokens: correlations that few tokens show are chance.
DAMPING = 1.5
# Rows rounded at once: the working arrays stay small.
ROWS = 8192
SWEEPS = 2
# Shares of a group's range that are tried for its grid.
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, slots=True)
class Compensation:
    """How an error in one column is made up for in the columns after it, for all matrices of the same inputs.

    Attributes:
        order: columns in the order in which they are rounded, int64 [K].
        groups: for each group, in that order: its index, and where it begins and ends in `order`.
        feedback: unit upper triangle U of H = U D U^T, float32 [K, K], in that order.
        weights: D, float32 [K]: what an error counts once it cannot be made up for.
        moments: H in that order, damped.
        bits, group_size: of the grid.
    """

    order: NDArray[np.int64]
    groups: list[tuple[int, int, int]]
    feedback: Matrix
    weights: Matrix
    moments: Matrix
    bits: int
    group_size: int

    @classmethod
    def prepare(cls, moments: Matrix, tokens: int, bits: int, group_size: int) -> "Compensation":
        """Take H, float32 [K, K], of so many tokens, and damp it where it lies.

        A column that is never used counts a little all the same.
        """
        # Of 18,944 columns H takes 1.4 GB: there are three arrays of its size at once, and no more.
        h = damp(moments, DAMPING * len(moments) / tokens)
        energy, columns = np.diagonal(h).copy(), len(h)
        parts = [
            np.arange(start, min(start + group_size, columns)) for start in range(0, columns, group_size)
        ]
        ranked = sorted(range(len(parts)), key=lambda g: -float(energy[parts[g]].mean()))
        order = np.concatenate([parts[g][np.argsort(-energy[parts[g]], kind="stable")] for g in ranked])
        stops = np.cumsum([len(parts[g]) for g in ranked])
        groups = [(g, int(stop) - len(parts[g]), int(stop)) for g, stop in zip(ranked, stops, strict=True)]
        # Scaled to a unit diagonal, so that single precision is enough. H = R R^T with R upper: the Cholesky factor of
        # H with rows and columns reversed, reversed.
        size = np.sqrt(energy[order])
        h = h[np.ix_(order, order)]
        unit = h[::-1, ::-1].copy()
        unit /= size[::-1]
        unit /= size[::-1, None]
        try:
            factor_in_place(unit)
        except np.linalg.LinAlgError:
            unit = (h[::-1, ::-1] / size[::-1] / size[::-1, None]).astype(np.float64)
            unit = np.linalg.cholesky(unit).astype(np.float32)
        upper = unit[::-1, ::-1]
        upper *= size[:, None]
        diagonal = np.diagonal(upper).copy()
        upper /= diagonal
        return cls(order, groups, upper, diagonal**2, h, bits, group_size)

    def round(self, matrix: Matrix, sweeps: int = SWEEPS) -> Grid:
        """Round a float32 matrix [N, K]."""
        # An infinite scale makes values that are not numbers, which `require_scales` finds.
        with np.errstate(invalid="ignore", over="ignore"):
            parts = [
                self._rows(matrix[start : start + ROWS], sweeps) for start in range(0, len(matrix), ROWS)
            ]
            codes, scales, zeros = (np.concatenate([part[i] for part in parts]) for i in range(3))
            return Grid(codes, scales, zeros.astype(np.uint8), self.bits, self.group_size)

    def _rows(self, matrix: Matrix, sweeps: int) -> tuple[NDArray[np.uint8], Matrix, Matrix]:
        """Codes, scales and zero points of some rows; everything is kept a column in a row while they are made."""
        top = np.float32(2**self.bits - 1)
        w = np.ascontiguousarray(matrix.T[self.order])
        errors, codes = np.zeros_like(w), np.empty_like(w)
        scales = np.empty((len(self.groups), len(matrix)), np.float32)
        zeros = np.empty_like(scales)
        for group, start, stop in self.groups:
            wanted = w[start:stop].copy()
            if start:
                wanted += self.feedback[:start, start:stop].T @ errors[:start]
            _, scale, zero = fit_grid(wanted.T[:, None], self.bits, SHRINKS, self.weights[start:stop])
            scales[group], zeros[group] = scale, zero = scale[:, 0, 0], zero[:, 0, 0]
            for k in range(start, stop):
                column = wanted[k - start] + self.feedback[start:k, k] @ errors[start:k]
                codes[k] = np.clip(np.rint(column / scale) + zero, 0, top)
                errors[k] = w[k] - (codes[k] - zero) * scale
        for _ in range(sweeps):
            self._sweep(errors, codes, scales, zeros)
        placed = np.empty(matrix.shape, np.uint8)
        placed[:, self.order] = codes.T
        return placed, scales.T, zeros.T

    def _sweep(self, errors: Matrix, codes: Matrix, scales: Matrix, zeros: Matrix) -> None:
        """Improve all groups in turn: the scale by least squares, then each code given all others."""
        top = np.float32(2**self.bits - 1)
        for group, start, stop in self.groups:
            block, scale = slice(start, stop), scales[group]
            h = self.moments[block, block]
            gradient = self.moments[block] @ errors
            steps = codes[block] - zeros[group]
            bent = h @ steps
            curvature = np.einsum("kn,kn->n", steps, bent)
            wanted = np.einsum("kn,kn->n", steps, gradient) / np.maximum(curvature, np.float32(1e-30))
            fitted = (scale + wanted).astype(np.float16).astype(np.float32)
            change = np.where((fitted > 0) & (curvature > 0) & np.isfinite(fitted), fitted - scale, 0)
            scales[group] = scale = scale + change
            errors[block] -= change * steps
            gradient -= change * bent
            moves = np.zeros_like(gradient)
            for k in range(stop - start):
                slope = gradient[k] - h[:k, k] @ moves[:k]
                new = np.clip(np.rint(codes[start + k] + slope / (h[k, k] * scale)), 0, top)
                moves[k] = (new - codes[start + k]) * scale
                codes[start + k] = new
            errors[block] -= moves


def factor_in_place(a: Matrix, block: int = 256) -> None:
    """Make a symmetric positive matrix its lower Cholesky factor, a block of columns at a time.

    numpy's own works in double precision and takes six times the memory, which for 18,944 columns is 8.6 GB.
    Raises LinAlgError for a matrix that is not positive in single precision.
    """
    for start in range(0, len(a), block):
        stop = min(start + block, len(a))
        corner = np.linalg.cholesky(a[start:stop, start:stop])
        a[start:stop, start:stop] = corner
        a[start:stop, stop:] = 0
        panel = a[stop:, start:stop] @ np.linalg.inv(corner).T.astype(np.float32)
        a[stop:, start:stop] = panel
        for left in range(stop, len(a), block):
            here = left - stop
            a[left:, left : left + block] -= panel[here:] @ panel[here : here + block].T


def damp(h: Matrix, damping: float) -> Matrix:
    """Add a share of its diagonal to H, so that no column counts nothing; returns it."""
    energy = np.diagonal(h)
    floor = max(float(energy.mean()) * 1e-6, 1e-12)
    h[np.diag_indices(len(h))] += np.float32(damping) * energy + np.float32(floor)
    return h
