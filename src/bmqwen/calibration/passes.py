"""A decoder layer on all calibration tokens at once: as the float model computes it, and while it is being rounded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.emit.numpy import NumpyOps, Rows, WatchedOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.quant.gptq import damp
from bmqwen.weights.weights import Grid, Weights

# A drift is learnt on all tokens but every so manieth, and believed as far as those bear it out.
HELD_OUT = 6
RIDGE = 0.1
# It is learnt from the inputs of most energy: with as many as there are tokens, chance would be learnt.
DRIFT_INPUTS = 1024


@dataclass(frozen=True, slots=True)
class Drift:
    """What the layers before have done to the inputs of projections, and how to make up for it.

    E is what the products lack on what the float model has in their place, float32 [tokens, N].

    Attributes:
        moments: X^T X of the inputs X that the rounded model computes, float32 [K, K].
        tokens: of them.
        columns: inputs that E is explained with, int64 [k].
        seen, held: X^T X of those inputs, over the tokens that are learnt from and over the others, float32 [k, k].
        lacking: E^T X of those inputs, over both, for rows of the matrix with these weights [N, K]: float32 [N, k].
    """

    moments: Rows
    tokens: int
    columns: NDArray[np.int64]
    seen: Rows
    held: Rows
    lacking: Callable[[Rows], tuple[Rows, Rows]]

    def corrected(self, matrix: Rows) -> Rows:
        """Return weights [N, K] whose products come nearer to the float model's: ridge regression of E on X.

        What GPTAQ (arXiv 2504.02692) adds to GPTQ column by column, here in one step, and as much of it as is borne
        out by tokens that it was not learnt from.
        """
        seen, held = self.lacking(matrix)
        change = np.linalg.solve(damp(self.seen.copy(), RIDGE), seen.T).T
        energy = float(np.einsum("nk,nk->", change @ self.held, change))
        worth = float(np.einsum("nk,nk->", change, held)) / energy if energy > 0 else 0.0
        better = matrix.copy()
        better[:, self.columns] += np.float32(min(max(worth, 0.0), 1.0)) * change
        return better


# Takes the names of matrices that share an input, their float weights side by side [N, K], and the drift.
Round = Callable[[tuple[str, ...], Rows, Drift], Grid]


def input_drift(inputs: Rows, wanted: Rows) -> Drift:
    """Make the drift of projections: their inputs, and the float model's, both float32 [tokens, K]."""
    x, moments, columns, held = _explaining(inputs)
    missing: Rows = wanted - inputs
    cross_held: Rows = missing[::HELD_OUT].T @ x[::HELD_OUT]
    cross_seen: Rows = missing.T @ x - cross_held

    def lacking(rows: Rows) -> tuple[Rows, Rows]:
        return rows @ cross_seen, rows @ cross_held

    return Drift(moments, len(inputs), columns, moments[np.ix_(columns, columns)] - held, held, lacking)


def output_drift(inputs: Rows, wanted: Rows) -> Drift:
    """Make the drift of a projection whose products should be `wanted`, float32 [tokens, N]."""
    x, moments, columns, held = _explaining(inputs)
    cross, cross_held = wanted.T @ x, wanted[::HELD_OUT].T @ x[::HELD_OUT]
    given, given_held = inputs.T @ x, inputs[::HELD_OUT].T @ x[::HELD_OUT]

    def lacking(rows: Rows) -> tuple[Rows, Rows]:
        held = cross_held - rows @ given_held
        return cross - rows @ given - held, held

    return Drift(moments, len(inputs), columns, moments[np.ix_(columns, columns)] - held, held, lacking)


def _explaining(inputs: Rows) -> tuple[Rows, Rows, NDArray[np.int64], Rows]:
    """Inputs of most energy, the moments of all, which they are, and their moments over the tokens held out."""
    moments = inputs.T @ inputs
    columns = np.sort(np.argsort(-np.diagonal(moments), kind="stable")[:DRIFT_INPUTS])
    x = inputs if len(columns) == inputs.shape[1] else np.ascontiguousarray(inputs[:, columns])
    held = x[::HELD_OUT]
    return x, moments, columns, held.T @ held


class FloatPass(NumpyOps):
    """The float model; keeps what the products of the layer at hand were given, and the residual sums."""

    def __init__(self, config: ModelConfig, weights: Weights, sequences: Sequence[Sequence[int]]) -> None:
        tokens = [token for sequence in sequences for token in sequence]
        super().__init__(config, WeightBlocks(weights), tokens, (), [len(sequence) for sequence in sequences])
        self.inputs: dict[str, Rows] = {}
        self.sums: list[Rows] = []

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Compute the products; keep the input of those that do not write to the residual stream."""
        if len(weights) > 1:
            self.inputs[weights[0]] = x
        return super().linear(x, *weights, bias=bias)

    def add_rms_norm(self, x: Rows, delta: Rows, weight: str) -> tuple[Rows, Rows]:
        """Compute the sum and its norm; keep the sum."""
        total, normed = super().add_rms_norm(x, delta, weight)
        self.sums.append(total)
        return total, normed

    def layer(self, index: int, x: Rows, norm: str) -> Rows:
        """Compute a layer on the residual stream [C, hidden], which begins with the norm of that name."""
        self.inputs.clear()
        self.sums.clear()
        x, delta = self.config.network.emit_block(self, index, x, self.rms_norm(x, norm))
        self.cache.clear()
        self.sums.append(x + delta)
        return self.sums[-1]


class RoundingPass(WatchedOps):
    """The model whose layers are rounded as they are reached: every product has its matrices rounded first.

    `largest` is of the layer at hand.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        sequences: Sequence[Sequence[int]],
        reference: FloatPass,
        round_matrices: Round,
    ) -> None:
        """`reference` computes each layer before this one does."""
        tokens = [token for sequence in sequences for token in sequence]
        super().__init__(config, WeightBlocks(weights), tokens, (), [len(sequence) for sequence in sequences])
        self._reference, self._round = reference, round_matrices
        self._stream: Rows = np.empty((0, 0), np.float32)
        self._sums = 0

    def layer(self, index: int, x: Rows, norm: str) -> Rows:
        """Round a layer and compute it on the residual stream [C, hidden]."""
        self._stream, self._sums, self.largest = x, 0, 0.0
        x, delta = self.config.network.emit_block(self, index, x, self.rms_norm(x, norm))
        self.cache.clear()
        self.watch(x + delta)
        return x + delta

    def add_rms_norm(self, x: Rows, delta: Rows, weight: str) -> tuple[Rows, Rows]:
        """Compute the sum and its norm."""
        self._stream, normed = super().add_rms_norm(x, delta, weight)
        self._sums += 1
        return self._stream, normed

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Round the matrices, then compute the products with them."""
        names = tuple(f"{weight}.weight" for weight in weights)
        matrix = np.concatenate([self._blocks.weights.read(name) for name in names])
        if (given := self._reference.inputs.get(weights[0])) is not None:
            drift = input_drift(x, given)
        else:
            # It writes to the residual stream: what is lacking there already, it may bring.
            drift = output_drift(x, self._reference.sums[self._sums] - self._stream)
        grid = self._round(names, matrix, drift)
        y = x @ grid.dequantize().T
        if bias:
            y += self._blocks.vector(*(f"{weight}.bias" for weight in weights))
        self.watch(y)
        return y
