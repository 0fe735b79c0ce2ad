"""One sequence of a runtime: the tokens in it, whose they are, and what of them a prompt can begin with."""

from collections.abc import Sequence

from bmqwen.generate.conversation_cache import FEWEST, ConversationCache, as_tokens, shared_length
from bmqwen.runtime.base import Runtime, RuntimeSequence


class Slot:
    """A sequence that answers are computed in, one after another.

    Attributes:
        sequence: of the runtime.
        owner: whose tokens are cached; nobody else gets them.
        busy: whether an answer is being computed in it.
        used: tells which slot was used last, by the largest number.
        reusable: so many of its first tokens may be taken for another prompt; None: all.
    """

    def __init__(self, runtime: Runtime, number: int) -> None:
        self.sequence = RuntimeSequence(runtime, number)
        self.owner = ""
        self.busy = False
        self.used = 0
        self.reusable: int | None = None
        self._tokens: list[int] = []

    @property
    def tokens(self) -> list[int]:
        """Tokens that are cached; list and runtime agree now."""
        # An interrupt may leave the runtime a step ahead, a failure behind.
        if self.sequence.position > len(self._tokens):
            self.sequence.truncate(len(self._tokens))
        del self._tokens[self.sequence.position :]
        return self._tokens

    def shared(self, owner: str, wanted: Sequence[int]) -> int:
        """Return how many first tokens of `wanted` are cached for its owner."""
        if owner != self.owner:
            return 0
        return shared_length(as_tokens(self.tokens[: self.reusable]), as_tokens(wanted))

    def note(self, tokens: Sequence[int]) -> None:
        """Add tokens that were fed."""
        self._tokens.extend(tokens)

    def truncate(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        if count < len(self.tokens):
            self.sequence.truncate(count)
            del self._tokens[count:]

    def take(
        self, owner: str, wanted: Sequence[int], saved: ConversationCache, others: Sequence["Slot"]
    ) -> int:
        """Make it hold the longest beginning of `wanted` that is known, and nothing else; returns how long that is.

        It may be known here, from `saved`, or in another slot, which keeps it. What has to make room here is saved.
        """
        if self.reusable is not None:
            self.truncate(self.reusable)
        here = self.shared(owner, wanted)
        entry, longer = saved.find(owner, wanted)
        source = max(others, key=lambda slot: slot.shared(owner, wanted), default=self)
        there = source.shared(owner, wanted)
        if here < len(self._tokens):
            saved.save(self.owner, self._tokens, self.sequence)
        if entry is not None and longer > max(here, there):
            self._tokens.clear()
            saved.restore(entry, longer, self.sequence)
            here = longer
        elif there >= max(here, 1) + FEWEST:
            self._tokens.clear()
            self.sequence.restore(source.sequence.save(), there)
            here = there
        self._tokens[:] = wanted[:here]
        if here < self.sequence.position:
            self.sequence.truncate(here)
        self.owner = owner
        return here


def choose_slot(slots: Sequence[Slot], owner: str, wanted: Sequence[int]) -> Slot | None:
    """Return the free slot for a prompt; None: all are busy.

    One whose whole conversation goes on with the prompt; else an empty one, or the one that was used longest ago.
    """
    free = [slot for slot in slots if not slot.busy]
    going_on = [
        slot for slot in free if slot.tokens and slot.shared(owner, wanted) >= len(slot.tokens) - FEWEST
    ]
    if going_on:
        return max(going_on, key=lambda slot: slot.shared(owner, wanted))
    return min(free, key=lambda slot: (bool(slot.tokens), slot.used), default=None)
