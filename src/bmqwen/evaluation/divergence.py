"""How far one model's predictions are from another's and from the truth, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import DeviceError, InputError

# Rows turned into float64 at once: 16 rows of a vocabulary of 152,000 are 19 MB.
_ROWS = 16


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near a model is to its float model, over the tokens scored. Natural logarithms throughout.

    Attributes:
        perplexity: of the float model.
        mean_kl, kl_standard_error, p99_kl: mean of KL(float model || model) in nats, the error of that mean with
            tokens taken as independent, and the 99th percentile.
        top1_agreement: share of the tokens for which both find the same token the most likely one.
    """

    perplexity: float
    mean_kl: float
    kl_standard_error: float
    p99_kl: float
    top1_agreement: float


class Divergence:
    """Collects scores; keeps a few numbers a token, never a row of logits."""

    def __init__(self) -> None:
        self._losses: list[NDArray[np.float64]] = []
        self._float_losses: list[NDArray[np.float64]] = []
        self._divergences: list[NDArray[np.float64]] = []
        self._agreements: list[NDArray[np.bool_]] = []

    def add(
        self,
        targets: Sequence[int],
        logits: NDArray[np.float32],
        reference: NDArray[np.float32] | None = None,
    ) -> None:
        """Score the tokens that the text goes on with: row i of logits, float32 [len(targets), vocabulary], predicts i.

        `reference`: those of the float model; None where there is none, then for all calls. Raises DeviceError for
        logits that are not finite.
        """
        for start in range(0, len(targets), _ROWS):
            rows = slice(start, start + _ROWS)
            places = (np.arange(len(targets[rows])), np.asarray(targets[rows], np.int64))
            q = log_softmax(logits[rows])
            self._losses.append(-q[places])
            if reference is None:
                continue
            p = log_softmax(reference[rows])
            self._float_losses.append(-p[places])
            self._agreements.append(p.argmax(axis=1) == q.argmax(axis=1))
            np.subtract(p, q, out=q)
            np.exp(p, out=p)
            self._divergences.append(np.einsum("rv,rv->r", p, q))

    @property
    def tokens(self) -> int:
        """Tokens scored so far."""
        return sum(map(len, self._losses))

    @property
    def perplexity(self) -> float:
        """Of the model: exp of the mean loss in nats. Raises InputError if no token was scored."""
        return _perplexity(self._losses)

    @property
    def nearness(self) -> Nearness | None:
        """To the float model; None without one. Raises InputError if no token was scored."""
        if not self._divergences:
            return None
        kl = np.concatenate(self._divergences)
        spread = float(kl.std(ddof=1)) if len(kl) > 1 else 0.0
        return Nearness(
            perplexity=_perplexity(self._float_losses),
            mean_kl=float(kl.mean()),
            kl_standard_error=spread / math.sqrt(len(kl)),
            p99_kl=float(np.quantile(kl, 0.99)),
            top1_agreement=float(np.concatenate(self._agreements).mean()),
        )


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return logarithms of the probabilities, float64 [rows, vocabulary]. Raises DeviceError unless all are finite."""
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    if not np.isfinite(values.sum()):
        raise DeviceError(
            "the model computed logits that are not numbers: its weights or its precision are broken"
        )
    return values


def _perplexity(losses: list[NDArray[np.float64]]) -> float:
    if not losses:
        raise InputError("no token was scored")
    # Beyond e^700 a float has no room; such a model is broken anyway.
    return math.exp(min(float(np.concatenate(losses).mean()), 700.0))
