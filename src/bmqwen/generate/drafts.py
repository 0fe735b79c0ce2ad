"""Guesses at an answer's next tokens, which the model checks in one step: several tokens a step where they are right.

Guesses change how fast an answer comes, not what is drawn: each token is chosen from the model's own logits, as without
them, and a guess only counts where it is the token that was chosen anyway. Where a runtime rounds several rows
differently (`Runtime.rounds_by_rows`), those logits are the same but for that.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bmqwen.generate.suffix_index import Match, SuffixIndex

RowCosts = Callable[[], Mapping[int, float]]
"""What the next step may cost: as `Runtime.row_costs`."""

# A draft must promise so much more than a step of one token, since a promise may be wrong.
_WORTH = 1.05
# How many of a draft's tokens are taken at first, by the length of the match: up to 2, 4, 8, 16 tokens, and longer.
_LENGTHS = (2, 4, 8, 16)
_SUFFIX_RATES = (0.3, 0.55, 0.75, 0.85, 0.92)
_MODEL_RATE = 0.65
# Weight of these first rates in tokens, and what remains of all weights from step to step.
_FIRST_WEIGHT, _MEMORY = 4.0, 0.95


class Guesser(Protocol):
    """A model that continues a text."""

    @property
    def cost(self) -> float:
        """Of a token, in steps of the model that checks it."""

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow all of `tokens`."""


class _Rate:
    """How likely the next token of a draft is right, where those before it were."""

    def __init__(self, rate: float) -> None:
        self._right, self._tried = rate * _FIRST_WEIGHT, _FIRST_WEIGHT

    def note(self, right: int, *, wrong: bool) -> None:
        self._right = self._right * _MEMORY + right
        self._tried = self._tried * _MEMORY + right + wrong

    def best(self, costs: Mapping[int, float], most: int, token_cost: float = 0.0) -> tuple[int, float]:
        """Return how many tokens to draft, `most` or fewer, and how many tokens a step's time then gives."""
        rate = min(self._right / self._tried, 0.99)
        count, gain = 0, _WORTH
        for rows, cost in costs.items():
            drafted = min(rows - 1, most)
            # Drafts of n tokens give 1 + rate + ... + rate^n.
            value = (1 - rate ** (drafted + 1)) / (1 - rate) / (cost + token_cost * drafted)
            if value > gain:
                count, gain = drafted, value
        return count, gain


class Drafts:
    """The drafts of one answer: from what its own text repeats, then from the owner's earlier answers, then a model's.

    Call `propose` before each step and `accept` after it. Each draft is compared with what came, checked or not, so
    drafts that would not pay end within a few steps, and begin again when they would.

    Attributes:
        proposed, accepted: tokens that were checked, and of these the right ones.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        costs: RowCosts,
        *,
        earlier: SuffixIndex | None = None,
        model: Callable[[], Guesser | None] = lambda: None,
    ) -> None:
        self._own = SuffixIndex(most=max(1 << 16, 2 * len(prompt)))
        self._own.extend(prompt)
        self._costs, self._earlier, self._model = costs, earlier, model
        self._rates = [_Rate(rate) for rate in _SUFFIX_RATES]
        self._model_rate = _Rate(_MODEL_RATE)
        self._guess: list[int] = []
        self._guess_rate: _Rate | None = None
        self._checked = 0
        self.proposed = self.accepted = 0

    def propose(self, most: int) -> list[int]:
        """Return the tokens to check together with the newest one, `most` or fewer; none where that does not pay."""
        self._guess, self._guess_rate = [], None
        if most < 1:
            return self._check(0)
        found, model = self._longest_match(), self._model()
        if found is None and model is None:
            return self._check(0)
        costs = self._costs()
        longest = min(most, max(costs) - 1)
        if longest < 1:
            return self._check(0)
        count, gain = 0, _WORTH
        if found is not None:
            index, match = found
            self._guess = index.after(match, longest)
            self._guess_rate = self._rates[sum(match.length > length for length in _LENGTHS)]
            count, gain = self._guess_rate.best(costs, len(self._guess))
        if model is not None:
            drafted, promised = self._model_rate.best(costs, longest, model.cost)
            if drafted and promised > gain:
                self._guess, self._guess_rate = model.guess(self._own.tokens, drafted), self._model_rate
                count = len(self._guess)
        return self._check(count)

    def accept(self, tokens: Sequence[int]) -> None:
        """Take the tokens that came since the last call: the drafted ones that were right, and one more."""
        if self._guess_rate is not None:
            right, most = 0, min(len(self._guess), len(tokens))
            while right < most and self._guess[right] == tokens[right]:
                right += 1
            self._guess_rate.note(right, wrong=right < most)
            self.accepted += min(right, self._checked)
            self._guess, self._guess_rate, self._checked = [], None, 0
        self._own.extend(tokens)

    def _check(self, count: int) -> list[int]:
        self._checked = count
        self.proposed += count
        return self._guess[:count]

    def _longest_match(self) -> tuple[SuffixIndex, Match] | None:
        """Where the newest tokens were seen before."""
        tail = self._own.tokens
        index, match = self._own, self._own.find(tail)
        if self._earlier is not None:
            other = self._earlier.find(tail)
            if other is not None and (match is None or other.length > match.length):
                index, match = self._earlier, other
        return None if match is None else (index, match)


class EarlierAnswers:
    """The answers that each owner got, within bounds: the owners and the tokens of longest ago are forgotten."""

    def __init__(self, owners: int = 64, tokens: int = 1 << 14) -> None:
        """Keep so many owners and tokens of each."""
        self._most_owners, self._most_tokens = owners, tokens
        self._indices: OrderedDict[str, SuffixIndex] = OrderedDict()

    def of(self, owner: str) -> SuffixIndex:
        """Return an owner's answers; what one owner was told is never proposed to another."""
        index = self._indices.setdefault(owner, SuffixIndex(self._most_tokens))
        self._indices.move_to_end(owner)
        while len(self._indices) > self._most_owners:
            self._indices.popitem(last=False)
        return index

    def clear(self) -> None:
        """Forget all."""
        self._indices.clear()
