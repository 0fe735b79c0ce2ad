"""The K/V of several conversations in host memory, so that going back to one costs only its new tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from bmqwen.generate.prefix_store import Entry, PrefixStore
from bmqwen.runtime.base import Runtime, SavedCache

# Fewer tokens are read again sooner than they are copied twice.
FEWEST = 16


@dataclass(frozen=True, slots=True)
class CacheState:
    """What is kept now, and what happened since the start.

    Attributes:
        conversations: saved now, beside the one in the runtime.
        nbytes: host memory that they take.
        saved: conversations put away.
        restored: conversations taken back.
    """

    conversations: int
    nbytes: int
    saved: int
    restored: int


class ConversationCache:
    """Saved caches of one runtime, within a budget of bytes; those that were used longest ago make room."""

    def __init__(self, budget: int) -> None:
        """`budget` is in bytes."""
        self._store: PrefixStore[SavedCache] = PrefixStore(budget)
        self._row_bytes = 0
        self._saved = self._restored = 0

    @property
    def state(self) -> CacheState:
        """Sizes and counts."""
        return CacheState(len(self._store), self._store.weight, self._saved, self._restored)

    def find(self, owner: str, tokens: Sequence[int]) -> tuple[Entry[SavedCache] | None, int]:
        """As `PrefixStore.find`."""
        return self._store.find(owner, tokens)

    def save(self, owner: str, tokens: Sequence[int], runtime: Runtime) -> None:
        """Keep what the runtime has cached, which are these tokens of this owner, if it is worth it and fits.

        Raises DeviceError if the device failed.
        """
        if len(tokens) < FEWEST or self._store.covers(owner, tokens):
            return
        expected = self._row_bytes * len(tokens)
        if not self._store.fits(expected):
            return
        # First, so that both are never there at once.
        self._store.make_room(expected)
        try:
            cache = runtime.save_cache()
        except MemoryError:
            self._store.clear()
            return
        self._row_bytes = -(-cache.nbytes // len(tokens))
        self._store.put(owner, tokens, cache, cache.nbytes)
        self._saved += 1

    def restore(self, entry: Entry[SavedCache], count: int, runtime: Runtime) -> None:
        """Put the first `count` tokens of a conversation that was found into the runtime.

        Raises DeviceError if the device failed.
        """
        runtime.restore_cache(entry.kept, count)
        self._restored += 1
        self._store.touch(entry)
        if count == len(entry.tokens):
            # All of it is in the runtime now, and is saved again when another conversation takes its place.
            self._store.remove(entry)

    def clear(self) -> None:
        """Let go of all."""
        self._store.clear()
