"""How far one model's predictions are from another's and from the truth, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import DeviceError, InputError

# Resamples of the blocks from which the intervals come.
_RESAMPLES = 500

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
        blocks: parts of the text taken as independent: its documents, or the windows of a single one.
        mean_kl_interval, p99_kl_interval, top1_interval: what holds 95 % of the same figures of resampled blocks
            (percentile bootstrap); of a single block, those of its tokens.
    """

    perplexity: float
    mean_kl: float
    kl_standard_error: float
    p99_kl: float
    top1_agreement: float
    blocks: int
    mean_kl_interval: tuple[float, float]
    p99_kl_interval: tuple[float, float]
    top1_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a stretch of text came to, a number a token: losses in nats, and what concerns the float model, if any."""

    losses: NDArray[np.float64]
    float_losses: NDArray[np.float64]
    divergences: NDArray[np.float64]
    agreements: NDArray[np.float64]


class Divergence:
    """Collects scores; keeps a few numbers a token, never a row of logits."""

    def __init__(self) -> None:
        self._blocks: list[list[Scores]] = []

    def begin_block(self) -> None:
        """Begin a part of the text that is taken as independent of the others."""
        self._blocks.append([])

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
            losses, nothing = -q[places], np.empty(0)
            if reference is None:
                self.add_scores(Scores(losses, nothing, nothing, nothing))
                continue
            p = log_softmax(reference[rows])
            float_losses, agreements = -p[places], p.argmax(axis=1) == q.argmax(axis=1)
            np.subtract(p, q, out=q)
            np.exp(p, out=p)
            kl = np.einsum("rv,rv->r", p, q)
            self.add_scores(Scores(losses, float_losses, kl, agreements.astype(np.float64)))

    def add_scores(self, scores: Scores) -> None:
        """Take over what was scored before."""
        if not self._blocks:
            self.begin_block()
        self._blocks[-1].append(scores)

    def last_block(self) -> Scores:
        """Return what the block at hand came to."""
        return _joined(self._blocks[-1])

    @property
    def tokens(self) -> int:
        """Tokens scored so far."""
        return sum(len(part.losses) for block in self._blocks for part in block)

    @property
    def perplexity(self) -> float:
        """Of the model: exp of the mean loss in nats. Raises InputError if no token was scored."""
        return _perplexity(self._all().losses)

    @property
    def nearness(self) -> Nearness | None:
        """To the float model; None without one. Raises InputError if no token was scored."""
        every = self._all()
        kl, count = every.divergences, len(every.divergences)
        if not count:
            return None
        lengths = [sum(len(part.losses) for part in block) for block in self._blocks]
        lengths = [length for length in lengths if length]
        if len(lengths) == 1:
            lengths = [1] * count
        spread = float(kl.std(ddof=1)) if count > 1 else 0.0
        intervals = _intervals(kl, every.agreements, lengths)
        return Nearness(
            _perplexity(every.float_losses),
            float(kl.mean()),
            spread / math.sqrt(count),
            float(np.quantile(kl, 0.99)),
            float(every.agreements.mean()),
            len(lengths),
            *intervals,
        )

    def extend(self, other: "Divergence") -> None:
        """Take over all blocks of another text."""
        self._blocks += other._blocks

    def _all(self) -> Scores:
        return _joined([part for block in self._blocks for part in block])


def _joined(parts: Sequence[Scores]) -> Scores:
    if not parts:
        return Scores(*(np.empty(0) for _ in range(4)))
    return Scores(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Scores)))


def _intervals(
    kl: NDArray[np.float64], agreements: NDArray[np.float64], lengths: Sequence[int]
) -> list[tuple[float, float]]:
    """95 % intervals of mean and 99th percentile of the divergences, and of the agreement, blocks being resampled."""
    blocks = len(lengths)
    drawn = np.random.default_rng(0).multinomial(blocks, [1 / blocks] * blocks, size=_RESAMPLES)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    weights = drawn @ np.asarray(lengths)
    means = [drawn @ np.add.reduceat(values, starts) / weights for values in (kl, agreements)]
    order = np.argsort(kl)
    block_of = np.repeat(np.arange(blocks), lengths)[order]
    tails = [
        kl[order[min(np.searchsorted(total := np.cumsum(row[block_of]), 0.99 * total[-1]), len(order) - 1)]]
        for row in drawn
    ]
    return [
        (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for values in (means[0], np.array(tails), means[1])
    ]


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


def _perplexity(losses: NDArray[np.float64]) -> float:
    if not len(losses):
        raise InputError("no token was scored")
    # Beyond e^700 a float has no room; such a model is broken anyway.
    return math.exp(min(float(losses.mean()), 700.0))
