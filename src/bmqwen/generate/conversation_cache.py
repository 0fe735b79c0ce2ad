"""The K/V of several conversations in host memory, found again by the longest beginning that a prompt shares."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.runtime.base import RuntimeSequence, SavedCache

Kept = TypeVar("Kept")
Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Entry(Generic[Kept]):
    """One sequence: whose it is, its tokens, what is kept for it, and what that weighs."""

    owner: str
    tokens: Tokens
    kept: Kept
    weight: int


class PrefixStore(Generic[Kept]):
    """Keeps entries within a budget of weight; those that were used longest ago make room.

    Owners never see each other's entries.
    """

    def __init__(self, budget: int) -> None:
        """`budget` is in the unit of the weights."""
        self.budget = budget
        self.weight = 0
        self._entries: OrderedDict[int, Entry[Kept]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry[Kept]]:
        """All of them, those used longest ago first."""
        return list(self._entries.values())

    def find(self, owner: str, tokens: Sequence[int] | Tokens) -> tuple[Entry[Kept] | None, int]:
        """Return the owner's entry that shares the most first tokens, and how many; (None, 0) if none shares any."""
        wanted = as_tokens(tokens)
        best, length = None, 0
        for entry in self._entries.values():
            if entry.owner == owner and (shared := shared_length(entry.tokens, wanted)) > length:
                best, length = entry, shared
        return best, length

    def covers(self, owner: str, tokens: Sequence[int]) -> bool:
        """Return whether an entry of the owner begins with all of `tokens`."""
        return self.find(owner, tokens)[1] == len(tokens)

    def put(self, owner: str, tokens: Sequence[int], kept: Kept, weight: int) -> None:
        """Keep something, unless it is over the budget alone; entries that only begin it are left out from now on."""
        if weight > self.budget:
            return
        added = Entry(owner, as_tokens(tokens), kept, weight)
        for entry in list(self._entries.values()):
            if entry.owner == owner and shared_length(entry.tokens, added.tokens) == len(entry.tokens):
                self.remove(entry)
        self.make_room(weight)
        self._entries[id(added)] = added
        self.weight += weight

    def touch(self, entry: Entry[Kept]) -> None:
        """Make an entry the one used last."""
        if id(entry) in self._entries:
            self._entries.move_to_end(id(entry))

    def make_room(self, weight: int) -> None:
        """Let go of the entries used longest ago, until `weight` more fits or none is left."""
        while self._entries and self.weight + weight > self.budget:
            self.remove(next(iter(self._entries.values())))

    def remove(self, entry: Entry[Kept]) -> None:
        """Let go of an entry; nothing if that happened before."""
        if self._entries.pop(id(entry), None) is not None:
            self.weight -= entry.weight

    def clear(self) -> None:
        """Let go of all."""
        self._entries.clear()
        self.weight = 0


def as_tokens(tokens: Sequence[int] | Tokens) -> Tokens:
    """Return token ids as an array to compare."""
    return np.asarray(tokens, np.int32)


def shared_length(left: Tokens, right: Tokens) -> int:
    """Return how many first tokens two sequences share."""
    count = min(len(left), len(right))
    differ = np.flatnonzero(left[:count] != right[:count])
    return int(differ[0]) if len(differ) else count


# Fewer tokens are read again sooner than they are copied twice.
FEWEST = 16


@dataclass(frozen=True, slots=True)
class CacheState:
    """What is kept now, and what happened since the start."""

    conversations: int  # saved now, beside the one in the runtime
    nbytes: int  # host memory that they take
    saved: int  # conversations put away
    restored: int  # conversations taken back


class ConversationCache(PrefixStore[SavedCache]):
    """Saved caches of one runtime, within a budget of bytes; those that were used longest ago make room."""

    def __init__(self, budget: int) -> None:
        """`budget` is in bytes; with 0 nothing is saved."""
        super().__init__(budget)
        self._row_bytes = 0
        self._saved = self._restored = 0

    @property
    def state(self) -> CacheState:
        """Sizes and counts."""
        return CacheState(len(self), self.weight, self._saved, self._restored)

    def save(self, owner: str, tokens: Sequence[int], sequence: RuntimeSequence) -> None:
        """Keep what a sequence has cached, which are these tokens of this owner, if it is worth it and fits.

        Raises DeviceError if the device failed.
        """
        expected = self._row_bytes * len(tokens)
        if not self.budget or expected > self.budget or len(tokens) < FEWEST or self.covers(owner, tokens):
            return
        # First, so that both are never there at once.
        self.make_room(expected)
        try:
            cache = sequence.save()
        except MemoryError:
            self.clear()
            return
        self._row_bytes = -(-cache.nbytes // len(tokens))
        self.put(owner, tokens, cache, cache.nbytes)
        self._saved += 1

    def restore(self, entry: Entry[SavedCache], count: int, sequence: RuntimeSequence) -> None:
        """Put the first `count` tokens of a conversation that was found into a sequence.

        Raises DeviceError if the device failed.
        """
        sequence.restore(entry.kept, count)
        self._restored += 1
        self.touch(entry)
        if count == len(entry.tokens):
            # All of it is in the sequence now, and is saved again when another conversation takes its place.
            self.remove(entry)
