"""Logits to a token: penalties, temperature, top-k, top-p, min-p, seed, log-probabilities."""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import DeviceError, InputError
from bmqwen.generate.call_grammar import CallGrammar
from bmqwen.generate.grammar import Grammar
from bmqwen.generate.params import SamplingParams, TokenLogprob
from bmqwen.generate.tokenizer import Tokenizer

_GREEDY_BELOW: Final = 1e-4  # a temperature that leaves no other token any chance
_BLOCK: Final = 128
_FIRST_LOOK: Final = 256  # tokens that mostly hold the mass of top_p


class Sampler:
    """One generation's choice of tokens. The same seed and logits give the same tokens.

    The repetition penalty looks at prompt and answer (as transformers does), the other two at the answer
    alone (as the OpenAI API does).
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        prompt: Sequence[int] = (),
        grammar: Grammar | CallGrammar | None = None,
    ) -> None:
        """`vocab_size` is the width of a row of logits; only tokens that `grammar` allows are chosen.

        Raises InputError for a logit_bias beyond the vocabulary.
        """
        self._params = params
        self._grammar = grammar
        beyond = [token for token in params.logit_bias if token >= vocab_size]
        if beyond:
            raise InputError(f"logit_bias names token {beyond[0]}, but the last one is {vocab_size - 1}")
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.intp)
        self._biases = np.fromiter(params.logit_bias.values(), np.float32)
        self._repeats = params.repetition_penalty != 1.0
        self._counts = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        changed = bool(params.logit_bias) or self._repeats or self._counts
        self._always_needs_logits = changed or not self._is_greedy or params.logprobs is not None
        self._seen = np.unique(np.asarray(prompt, np.intp)) if self._repeats else np.empty(0, np.intp)
        self._answer = np.empty(0, np.intp)
        self._answer_counts = np.empty(0, np.float32)
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    @property
    def needs_logits(self) -> bool:
        """False if only the most likely token is asked for next: then no logits need to leave the device."""
        return self._always_needs_logits or (self._grammar is not None and self._grammar.holds)

    def sample(self, logits: NDArray[np.float32], *, free: bool = False, beside: Collection[int] = ()) -> int:
        """Choose from one row of logits, float32 [vocab_size], which stays as it is.

        `free`: the grammar does not count here; `beside` are tokens that may be taken in spite of it.

        Raises:
            DeviceError: logits that are not numbers.
            SchemaError: the grammar takes too much to follow.
        """
        logits = self._final(logits, free, beside)
        if self._is_greedy:
            return int(np.argmax(logits))
        ids, weights = self.candidates(logits)
        return int(ids[draw(weights, self._random.random())])

    def sample_clearly(
        self, logits: NDArray[np.float32], lead: float, *, free: bool = False, beside: Collection[int] = ()
    ) -> int | None:
        """Choose as `sample` does; None where the most likely token is to be taken and leads by less than `lead`."""
        if not self._is_greedy:
            return self.sample(logits, free=free, beside=beside)
        logits = self._final(logits, free, beside)
        best = int(np.argmax(logits))
        second = max(logits[:best].max(initial=-np.inf), logits[best + 1 :].max(initial=-np.inf))
        return best if logits[best] - second >= lead else None

    @property
    def _is_greedy(self) -> bool:
        return self._params.temperature < _GREEDY_BELOW

    def _final(self, logits: NDArray[np.float32], free: bool, beside: Collection[int]) -> NDArray[np.float32]:
        """Logits with bias, penalties and grammar."""
        check_logits(logits)
        logits = self._adjust(logits)
        if self._grammar is not None and not free and self._grammar.holds:
            allowed = self._grammar.allowed(len(logits))
            allowed[list(beside)] = True
            logits = np.where(allowed, logits, np.float32(-np.inf))
        return logits

    def record(self, token_id: int, *, free: bool = False) -> None:
        """Tell the penalties and, unless `free`, the grammar which token was taken."""
        if self._grammar is not None and not free:
            self._grammar.accept(token_id)
        if self._repeats and not (self._seen == token_id).any():
            self._seen = np.append(self._seen, token_id)
        if self._counts:
            at = np.flatnonzero(self._answer == token_id)
            if len(at):
                self._answer_counts[at] += 1
            else:
                self._answer = np.append(self._answer, token_id)
                self._answer_counts = np.append(self._answer_counts, np.float32(1))

    def _adjust(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if not (len(self._bias_ids) or len(self._seen) or len(self._answer)):
            return logits
        logits = logits.copy()
        logits[self._bias_ids] += self._biases
        if len(self._seen):
            penalty = np.float32(self._params.repetition_penalty)
            seen = logits[self._seen]
            logits[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        if len(self._answer):
            frequency = np.float32(self._params.frequency_penalty) * self._answer_counts
            logits[self._answer] -= frequency + np.float32(self._params.presence_penalty)
        return logits

    def candidates(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return token ids that top_k, top_p and min_p leave, and their weights: 1 for the likeliest token."""
        params = self._params
        size = len(logits)
        top = logits.max()
        if params.top_k or params.top_p < 1.0:
            ids = largest(logits, min(params.top_k or _FIRST_LOOK, size))
        elif params.min_p > 0.0:
            # A bit too low: the weights decide below.
            bound = top + np.float32(params.temperature * np.log(params.min_p) - 1e-3)
            ids = np.flatnonzero(logits >= bound)
        else:
            return np.arange(size), self._weights(logits, top)
        weights = self._weights(logits[ids], top)
        if params.top_p < 1.0:
            # Without top_k the mass is that of the whole vocabulary; mostly its first few hold enough of it.
            whole = weights if params.top_k else self._weights(logits, top)
            needed = params.top_p * whole.sum(dtype=np.float64)
            mass = np.cumsum(weights, dtype=np.float64)
            if mass[-1] < needed and not params.top_k:
                ids = _heaviest(whole, needed)
                weights = whole[ids]
            else:
                count = int(np.searchsorted(mass, needed, side="left")) + 1
                ids, weights = ids[:count], weights[:count]
        if params.min_p > 0.0:
            likely = weights >= np.float32(params.min_p)
            ids, weights = ids[likely], weights[likely]
        return ids, weights

    def _weights(self, logits: NDArray[np.float32], top: np.float32) -> NDArray[np.float32]:
        """exp((logits - top) / temperature)."""
        scaled: NDArray[np.float32] = (logits - top) / np.float32(self._params.temperature)
        return np.exp(scaled, out=scaled)


def draw(weights: NDArray[np.float32], chance: float) -> int:
    """Return the index at which the running sum of weights passes `chance` (of [0, 1)) of the whole."""
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
    sums = np.cumsum(np.append(blocks, weights[whole:].sum()), dtype=np.float64)
    wanted = chance * sums[-1]
    last = int(np.searchsorted(sums, sums[-1], side="left"))
    block = min(int(np.searchsorted(sums, wanted, side="right")), last)
    inside = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    before = sums[block - 1] if block else 0.0
    place = int(np.searchsorted(inside, wanted - before, side="right"))
    if place == len(inside):  # by rounding: the last one that has any weight
        place = int(np.searchsorted(inside, inside[-1], side="left"))
    return block * _BLOCK + place


def _heaviest(weights: NDArray[np.float32], needed: float) -> NDArray[np.intp]:
    """Return the fewest indices whose weights sum to `needed`, in ascending order; the lowest among equals."""
    ordered = np.sort(weights)[::-1]
    count = int(np.searchsorted(np.cumsum(ordered, dtype=np.float64), needed, side="left")) + 1
    bound = ordered[min(count, len(ordered)) - 1]
    kept = weights > bound
    kept[np.flatnonzero(weights == bound)[: count - int(kept.sum())]] = True
    return np.flatnonzero(kept)


def check_logits(logits: NDArray[np.float32]) -> None:
    """Raise DeviceError unless the largest of the logits is a number (NaN spreads to it)."""
    if not np.isfinite(logits.max()):
        raise DeviceError("the model computed logits that are not numbers: damaged weights or device")


def largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return indices of the `count` largest values, the largest first, the lowest index among equals.

    Exact, and faster than a partition of everything: the count-th largest maximum of groups is a lower bound.
    """
    groups = len(values) // _BLOCK
    if count < groups:
        # A group is a column: its maximum takes a fifth of the time that a row's takes.
        maxima = values[: groups * _BLOCK].reshape(_BLOCK, groups).max(axis=0)
        bound = np.partition(maxima, groups - count)[groups - count]
        ids = np.flatnonzero(values >= bound)
        if len(ids) > 4 * count:
            ids = ids[values[ids] >= np.partition(values[ids], len(ids) - count)[len(ids) - count]]
    elif count < len(values):
        ids = np.flatnonzero(values >= np.partition(values, len(values) - count)[len(values) - count])
    else:
        ids = np.arange(len(values))
    return ids[np.argsort(-values[ids], kind="stable")[:count]]


def token_logprob(
    logits: NDArray[np.float32], token_id: int, alternatives: int, tokenizer: Tokenizer
) -> TokenLogprob:
    """Log-probability of a token, and of the likeliest `alternatives`, from one row of unmodified logits."""
    top = logits.max()
    total = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))

    def of(token: int, others: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        data = tokenizer.token_bytes(token)
        return TokenLogprob(
            token, data.decode("utf-8", "replace"), data, float(logits[token]) - total, others
        )

    best = largest(logits, min(alternatives, len(logits))) if alternatives else ()
    return of(token_id, tuple(of(int(token)) for token in best))
