"""A runtime without weights: what follows is a fixed function of the whole prefix. Strict about the protocol."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ContextLengthError, InputError
from bmqwen.generate.params import Completion, Piece
from bmqwen.runtime.base import Feed, Output, SavedCache, check_saved

NextToken = Callable[[tuple[int, ...]], int | None]


class ToyOutput:
    """Valid until the runtime's next call, as the protocol says; where several steps are under way, always."""

    def __init__(self, runtime: "ToyRuntime", rows: list[tuple[int, ...]], feed: Feed) -> None:
        self._runtime, self._rows, self._call = runtime, rows, runtime.calls
        self._feed = feed

    def greedy(self) -> list[int]:
        self._check()
        self._runtime.greedy_reads += 1
        return [int(np.argmax(self._runtime.logits_after(row))) for row in self._rows]

    def logits(self) -> NDArray[np.float32]:
        self._check()
        assert not self._feed.greedy, "logits were not asked for"
        self._runtime.logits_reads += 1
        return np.stack([self._runtime.logits_after(row) for row in self._rows])

    def _check(self) -> None:
        late = self._runtime.calls != self._call and self._runtime.depth == 1
        assert not late, "an Output was read after the runtime's next call"
        assert not self._feed.goes_on, "nobody asks for the results of a prompt that goes on"


class ToyRuntime:
    """Random logits seeded by a hash of the prefix; `next_token` may script the most likely token.

    Attributes:
        feeds: (position, length) of each successful feed.
        steps: how many feeds each successful step had.
        depth: how many steps may be under way at once.
        before_feed, after_feed: called around each step, with the number of feeds before it; they may raise.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int = 4096,
        *,
        next_token: NextToken | None = None,
        piece: int = 8,
        nan: bool = False,
        sequences: int = 1,
        row_costs: Mapping[int, float] | None = None,
    ) -> None:
        self.name = "toy"
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.feeds: list[tuple[int, int]] = []
        self.steps: list[int] = []
        self.before_feed: Callable[[int], None] | None = None
        self.after_feed: Callable[[int], None] | None = None
        self.calls = self.greedy_reads = self.logits_reads = self.saves = 0
        self.closed = False
        self.sequences = sequences
        self.rounds_by_rows = False
        self.depth = 1
        self._row_costs = row_costs or {1: 1.0}
        self._next_token, self._piece, self._nan = next_token, piece, nan
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]

    def position(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    @property
    def tokens(self) -> list[int]:
        """Of the first sequence."""
        return list(self._tokens[0])

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        del sequence, count, beside
        return False

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        assert 0 <= sequence < self.sequences
        assert count > 0
        assert 0 < waiting <= self.sequences - beside
        return min(self._piece, count, 4 if beside else count)

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        assert 0 <= sequence < self.sequences
        assert 0 <= beside < self.sequences
        return {1: 1.0} if beside else self._row_costs

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        return self.depth if reading or answers >= 2 * self.depth else 1

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        assert not self.closed
        assert len({feed.sequence for feed in feeds}) == len(feeds) > 0
        if self.before_feed is not None:
            self.before_feed(len(self.feeds))
        for feed in feeds:
            if not feed.tokens or not all(0 <= token < self.vocab_size for token in feed.tokens):
                raise InputError("no tokens, or a token out of range")
            end = self.position(feed.sequence) + len(feed.tokens)
            if end > self.context_length:
                raise ContextLengthError(self.context_length, end)
        self.calls += 1
        self.steps.append(len(feeds))
        rows = []
        for feed in feeds:
            known = self._tokens[feed.sequence]
            self.feeds.append((len(known), len(feed.tokens)))
            known.extend(feed.tokens)
            first = len(known) - len(feed.tokens) + 1 if feed.every_row else len(known)
            rows.append([tuple(known[:end]) for end in range(first, len(known) + 1)])
        if self.after_feed is not None:
            self.after_feed(len(self.feeds) - 1)
        return [ToyOutput(self, each, feed) for each, feed in zip(rows, feeds, strict=True)]

    def truncate(self, sequence: int, position: int) -> None:
        if not 0 <= position <= self.position(sequence):
            raise InputError("position out of range")
        self.calls += 1
        del self._tokens[sequence][position:]

    def save(self, sequence: int) -> SavedCache:
        self.saves += 1
        tokens = self._tokens[sequence]
        return SavedCache(len(tokens), np.asarray(tokens, np.int64))

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        check_saved(saved, position, (saved.position,))
        self.calls += 1
        self._tokens[sequence] = saved.rows[:position].tolist()

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def logits_after(self, prefix: tuple[int, ...]) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(np.asarray(prefix, np.int64).tobytes()).digest()[:8], "big")
        logits = np.random.default_rng(seed).normal(0, 2, self.vocab_size).astype(np.float32)
        scripted = None if self._next_token is None else self._next_token(prefix)
        if scripted is not None:
            logits[scripted] = logits.max() + 5
        if self._nan:
            logits[3] = np.nan
        return logits


def drain(generation: Generator[Piece, None, Completion]) -> tuple[list[Piece], Completion]:
    """The pieces of a generation, and what it returned."""
    result: list[Completion] = []

    def collect() -> Iterator[Piece]:
        result.append((yield from generation))

    return list(collect()), result[0]


def script(answers: Sequence[Sequence[int]], ends_prompt: Sequence[int]) -> NextToken:
    """Greedy answers, one for each prompt that ends with `ends_prompt`: the n-th such end begins the n-th answer."""
    mark = tuple(ends_prompt)

    def next_token(prefix: tuple[int, ...]) -> int | None:
        starts = [
            place + len(mark)
            for place in range(len(prefix) - len(mark) + 1)
            if prefix[place : place + len(mark)] == mark
        ]
        if not starts or len(starts) > len(answers):
            return None
        done = prefix[starts[-1] :]
        answer = tuple(answers[len(starts) - 1])
        if done == answer[: len(done)] and len(done) < len(answer):
            return answer[len(done)]
        return None

    return next_token
