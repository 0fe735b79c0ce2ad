"""Which replicas have read the beginning of a conversation before."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)

# Tokens between two places at which beginnings are compared.
STRIDE = 8
# And between two that are remembered, beside a conversation's end: documents that several questions follow.
LANDMARK = 256
# Beginnings that are remembered of a replica: of some hundred conversations.
MOST = 2048


def beginnings(owner: str, tokens: Sequence[int]) -> list[int]:
    """Return a number for the first 8, 16, 24 ... tokens of a prompt, that depends on all of them and on the owner."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    found = []
    for end in range(STRIDE, len(tokens) + 1, STRIDE):
        block = array("q", tokens[end - STRIDE : end]).tobytes()
        digest = hashlib.blake2b(block, digest_size=8, key=digest).digest()
        found.append(int.from_bytes(digest, "big"))
    return found


def landmarks(chain: Sequence[int]) -> list[int]:
    """Return those of a prompt's beginnings by which it is found again."""
    every = LANDMARK // STRIDE
    return list(dict.fromkeys([*chain[every - 1 :: every], *chain[-1:]]))


class KnownBeginnings(Generic[Name]):
    """The beginnings that replicas have read; of each replica, the oldest are forgotten first."""

    def __init__(self) -> None:
        self._of: dict[Name, OrderedDict[int, None]] = {}
        # The same by beginning: looking one up takes as long for a thousand replicas as for one.
        self._at: dict[int, set[Name]] = {}

    def count(self, replica: Name) -> int:
        """Return how many are known of a replica."""
        return len(self._of.get(replica, ()))

    def add(self, replica: Name, marks: Iterable[int]) -> None:
        """Remember what a replica has read."""
        known = self._of.setdefault(replica, OrderedDict())
        for mark in marks:
            known[mark] = None
            known.move_to_end(mark)
            self._at.setdefault(mark, set()).add(replica)
        while len(known) > MOST:
            self._drop(replica, known.popitem(last=False)[0])

    def keep(self, replicas: Iterable[Name]) -> None:
        """Forget all replicas but these."""
        for gone in self._of.keys() - set(replicas):
            for mark in self._of.pop(gone):
                self._drop(gone, mark)

    def shared(self, chain: Sequence[int]) -> dict[Name, int]:
        """Return how many tokens of a prompt replicas have read, as far as known; without those that have none."""
        found: dict[Name, int] = {}
        for place in range(len(chain), 0, -1):
            for replica in self._at.get(chain[place - 1], ()):
                found.setdefault(replica, place * STRIDE)
        return found

    def _drop(self, replica: Name, mark: int) -> None:
        holders = self._at[mark]
        holders.discard(replica)
        if not holders:
            del self._at[mark]
