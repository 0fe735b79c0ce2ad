"""Which replica has read the beginning of a conversation before."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

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


class KnownBeginnings:
    """The beginnings that a replica has read; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, None] = OrderedDict()

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, marks: Iterable[int]) -> None:
        """Remember beginnings."""
        for mark in marks:
            self._known[mark] = None
            self._known.move_to_end(mark)
        while len(self._known) > MOST:
            self._known.popitem(last=False)

    def shared(self, chain: Sequence[int]) -> int:
        """Return how many tokens of a prompt it has read, as far as known."""
        for place in range(len(chain), 0, -1):
            if chain[place - 1] in self._known:
                return place * STRIDE
        return 0
