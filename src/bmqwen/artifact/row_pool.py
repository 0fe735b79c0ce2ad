"""Which rows of a bmodel's K/V cache belong to which sequence: all sequences share one cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.steps import NEVER, StepNets, StepShape
from bmqwen.errors import BundleError

FREE = -1
# Copies rows of the cache, by the net of that shape, side by side to a row: all the net's rows from there on change.
Move = Callable[[StepShape, NDArray[np.int64], int], None]
# A step that reads a piece of a prompt as well takes answers at most so many times their own time.
MOST_SLOWER = 2
# A sequence pauses that took no part in so many steps. What it gains the others in so many is worth moving its rows.
PAUSE_STEPS = 8
ARRANGED_STEPS = 64
# Plans that are remembered.
MOST_PLANS = 1024


class Part(NamedTuple):
    """New tokens of one sequence in a step.

    Attributes:
        feed: which of the step's feeds they belong to.
        start: which of that feed's tokens is the first of them.
        tokens: how many they are.
        results: how many of them, from the last one back, have results that are wanted.
    """

    feed: int
    sequence: int
    start: int
    tokens: int
    results: int

    def cut(self, count: int) -> "tuple[Part, Part]":
        """Return the first `count` tokens and the rest."""
        rest = self.tokens - count
        first = self._replace(tokens=count, results=max(0, self.results - rest))
        return first, self._replace(start=self.start + count, tokens=rest, results=min(rest, self.results))


class Placement(NamedTuple):
    """The net for a step, and the row of the cache that its first token gets; the others follow."""

    shape: StepShape
    row: int


class RowPool:
    """Hands out rows of the cache; a net's mask then tells each token which of them it may look at.

    A step's rows lie side by side, whatever sequences they are of, because that is how a net writes them. Also of a
    sequence alone, row and position may differ: a net cannot write everywhere.

    Attributes:
        epochs: for each sequence, how often some of its rows were taken away or moved.
    """

    def __init__(self, nets: StepNets, move: Move = lambda *_: None) -> None:
        """All rows are free. The nets' costs decide which one a step gets; `move` copies rows on the device."""
        self._nets, self._move = nets, move
        shapes = [shape for shape in nets.cycles if shape.rows]
        self._by_cost = sorted(shapes, key=nets.cost)
        self._mover = next((shape for shape in nets.cycles if not shape.rows), None)
        self._lengths = sorted({shape.tokens for shape in shapes}, reverse=True)
        # Tokens of the longest step with a result for each.
        self._widest = max(shape.tokens for shape in shapes if shape.rows == shape.tokens)
        # Behind the cache lie the rows in which the nets of the whole history leave what they compute.
        self._owners = np.full(nets.rows + max(shape.tokens for shape in nets.cycles), FREE, np.int16)
        self._numbers = np.arange(nets.rows)
        self._rows = np.zeros((nets.sequences, nets.context), np.int64)
        self._counts = [0] * nets.sequences
        # For each sequence, the row behind its highest.
        self._tops = [0] * nets.sequences
        self.epochs = [0] * nets.sequences
        # For each sequence the step in which it last took part, and what the rows were last arranged for.
        self._used = [0] * nets.sequences
        self._step = 0
        self._arranged: tuple[int, ...] = ()
        self._next = 0
        self._plans: dict[tuple[int, int], list[tuple[StepShape, int]]] = {}

    def position(self, sequence: int) -> int:
        """Return how many tokens of a sequence are cached."""
        return self._counts[sequence]

    def rows(self, sequence: int) -> NDArray[np.int64]:
        """Return the rows of a sequence's tokens, in their order. Not to be written to."""
        return self._rows[sequence, : self._counts[sequence]]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self._numbers.size

    @property
    def top(self) -> int:
        """The row behind the highest that is in use."""
        return max(self._tops)

    def choose(self, sequences: Sequence[int], tokens: int, results: int) -> Placement | None:
        """Return the cheapest net for so many new tokens of some sequences, with results of so many of them.

        None: no net takes them together, or there is no room of that length.
        """
        tops = self._tops
        seen = max([tops[sequence] for sequence in sequences])
        for shape in self._by_cost:
            if shape.tokens >= tokens and shape.rows >= results and shape.history >= seen:
                row = self._room(shape)
                if row is not None:
                    return Placement(shape, row)
        return None

    def launches(self, parts: Sequence[Part]) -> list[tuple[list[Part], Placement | None]]:
        """Return the parts of a step as the cheapest launches take them, by the cache as it is now.

        All together, or short ones together and each long one in the pieces that are best for it. A single launch
        comes with its place; of several, each is to be chosen when those before it are appended.
        """
        tokens = _tokens(parts)
        together = self._together(parts) if len(parts) > 1 or tokens <= self._widest else None
        if together is not None and tokens <= self._widest:
            return [(list(parts), together)]
        apart: list[list[Part]] = []
        short: list[Part] = []
        for part in parts:
            if part.tokens > self._widest:
                apart += [[piece] for piece in self._pieces(part)]
                continue
            if _tokens(short) + part.tokens > self._widest:
                apart.insert(0, short)
                short = []
            short.append(part)
        if short:
            apart.insert(0, short)
        if together is not None:
            costs = [self._together(group) for group in apart]
            least = sum(self._nets.cost(placement.shape) for placement in costs if placement)
            if None in costs or self._nets.cost(together.shape) < least:
                return [(list(parts), together)]
        return [(group, None) for group in apart]

    def place(self, parts: Sequence[Part]) -> Iterator[tuple[Placement, Sequence[Part]]]:
        """Yield how a launch of `launches` is carried out: where it goes, or the launches that it has to be cut into.

        What was yielded has to be appended before the next one is asked for. Where rows in use leave no room, they are
        moved together. Raises BundleError where there is no net for a single token.
        """
        tokens, results = _tokens(parts), sum(part.results for part in parts)
        placement = self._together(parts)
        used = sum(self._counts)
        if (
            placement is None
            and used < self.top
            and any(
                shape.tokens >= tokens and shape.rows >= results and shape.history >= used
                for shape in self._by_cost
            )
        ):
            self._compact()
            placement = self._together(parts)
        if placement is not None:
            yield placement, parts
        elif len(parts) > 1:
            half = len(parts) // 2
            yield from self.place(parts[:half])
            yield from self.place(parts[half:])
        elif tokens > 1:
            for part in parts[0].cut(tokens // 2):
                yield from self.place([part])
        else:
            raise BundleError(f"the bundle has no net for one token after {self.top}")

    def piece(self, sequence: int, count: int, beside: int = 0) -> int:
        """Return how many tokens of a prompt are best read first.

        With `beside` answers that get a token in the same step: as many as do not take them longer than `MOST_SLOWER`
        times their own time, in one launch where there is a net for that.
        """
        if not beside:
            return self._piece(sequence, self.top, count)[1]
        everyone = range(len(self._counts))
        own = self.choose(everyone, beside, beside)
        limit = MOST_SLOWER * self._nets.cost(own.shape) if own else NEVER
        for length in self._lengths:
            used = min(count, length - beside)
            both = self.choose(everyone, used + beside, 1 + beside) if used > 0 else None
            if both is not None and self._nets.cost(both.shape) <= limit:
                return used
        for length in self._lengths:
            shape, used = self._piece(sequence, self.top, min(count, length))
            if limit * (MOST_SLOWER - 1) / MOST_SLOWER >= self._nets.cost(shape):
                break
        return used

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        """Tell whether a prompt of so many tokens is best read in a step of its own while others write answers.

        That is so where a single launch reads it, sooner than one with the answers' tokens would, and the answers wait
        no longer for it than for a token.
        """
        everyone = range(len(self._counts))
        alone = self.choose([sequence], count, 1)
        own = self.choose(everyone, beside, beside)
        if alone is None or own is None:
            return False
        both = self.choose(everyone, count + beside, 1 + beside)
        least = min(self._nets.cost(placement.shape) for placement in (own, both) if placement)
        return self._nets.cost(alone.shape) <= least

    def groups(self, answers: int, most: int) -> int:
        """Return in how many groups, at most so many, to compute answers where groups take no time from each other.

        That is so on as many chips, each with a part of the model: steps go through the parts one behind the other.
        They are as few as give all answers their next tokens soonest.
        """
        everyone, best, least = range(len(self._counts)), 1, NEVER
        for count in range(1, min(answers, most) + 1):
            size = -(-answers // count)
            placement = self.choose(everyone, size, size)
            cost = self._nets.cost(placement.shape) if placement else NEVER
            if cost < least:
                best, least = count, cost
        return best

    def reserve(self, sequence: int, count: int) -> int:
        """Give an empty sequence so many rows that lie side by side, and return the first of them."""
        if not (gaps := self._gaps(count)):
            self._compact()
        row = gaps[0] if gaps else self._next
        if count:
            self.append(row, [(sequence, count)])
        return row

    def append(self, row: int, counts: Sequence[tuple[int, int]]) -> None:
        """Give the rows from `row` on to sequences, to each as many as stated, in that order."""
        for sequence, count in counts:
            end, position = row + count, self._counts[sequence]
            self._owners[row:end] = sequence
            self._rows[sequence, position : position + count] = self._numbers[row:end]
            self._counts[sequence] += count
            self._tops[sequence] = max(self._tops[sequence], end)
            row = end
        self._next = row

    def fill(self, sequence: int, position: int) -> None:
        """Give a sequence any free rows up to a position, for tokens that are read again before these are looked at."""
        missing = max(0, position - self._counts[sequence])
        for row in np.flatnonzero(self._owners[: self.size] == FREE)[:missing].tolist():
            self.append(row, [(sequence, 1)])

    def truncate(self, sequence: int, position: int) -> None:
        """Free the rows of a sequence's tokens from `position` on."""
        freed = self.rows(sequence)[position:]
        if not freed.size:
            return
        self._owners[freed] = FREE
        self._next = min(self._next, int(freed.min()))
        self._counts[sequence] = position
        self._tops[sequence] = int(self.rows(sequence).max(initial=-1)) + 1
        self.epochs[sequence] += 1

    def arrange(self, sequences: Sequence[int]) -> None:
        """Before a step of some sequences: see that rows which none of late needed do not make its history longer.

        Rows of sequences that pause go to the cache's end, and those of the others to its beginning, where the nets
        that then do gain more in `ARRANGED_STEPS` steps than that costs.
        """
        self._step += 1
        for sequence in sequences:
            self._used[sequence] = self._step
        busy = tuple(s for s, used in enumerate(self._used) if used and self._step - used < PAUSE_STEPS)
        if self._mover is None or busy == self._arranged:
            return
        self._arranged = busy
        length, used = self._mover.tokens, sum(self._counts)
        needed = sum(self._counts[s] for s in busy)
        block = -(-(used - needed) // length) * length
        now = self._least(max(self._tops[s] for s in busy), len(busy))
        then = self._least(needed, len(busy))
        launches = -(-(2 * used) // length) + 2
        if (
            now - then < launches * self._nets.cost(self._mover) / ARRANGED_STEPS
            or used + block + length > self.size
        ):
            return
        if self.top + block > self.size:
            self._compact()
        pausing = [s for s in range(len(self._counts)) if s not in busy]
        self._put([row for s in pausing for row in self.rows(s).tolist()], self.size - block)
        self._compact(busy)

    def _least(self, rows: int, tokens: int) -> int:
        """Return what the cheapest step of so many tokens costs that may look at so many rows."""
        found = (s for s in self._by_cost if s.tokens >= tokens and s.rows >= tokens and s.history >= rows)
        return next((self._nets.cost(shape) for shape in found), NEVER)

    def _compact(self, sequences: Sequence[int] | None = None) -> None:
        """Move the rows of some or all sequences together, to the cache's beginning. Their order stays as it is."""
        chosen = range(len(self._counts)) if sequences is None else sequences
        self._put(sorted(row for s in chosen for row in self.rows(s).tolist()), 0)
        self._next = sum(self._counts[s] for s in chosen)

    def _put(self, rows: Sequence[int], to: int) -> None:
        """Move rows side by side to row `to`. There, each is free or one that moves no later than what comes there.

        Where moving fails, the sequences that the rows belong to lose all of theirs.
        """
        if self._mover is None or list(rows) == list(range(to, to + len(rows))):
            return
        length, owners = self._mover.tokens, self._owners[rows]
        try:
            for start in range(0, len(rows), length):
                self._move(self._mover, np.array(rows[start : start + length]), to + start)
        except BaseException:
            # Some rows are overwritten, and nobody knows which.
            for sequence in set(owners.tolist()):
                self.truncate(sequence, 0)
            raise
        self._owners[rows] = FREE
        self._owners[to : to + len(rows)] = owners
        places = np.zeros(self.size, np.int64)
        places[rows] = self._numbers[to : to + len(rows)]
        for sequence in set(owners.tolist()):
            self.rows(sequence)[:] = places[self.rows(sequence)]
            self._tops[sequence] = int(self.rows(sequence).max(initial=-1)) + 1
            self.epochs[sequence] += 1

    def _pieces(self, part: Part) -> list[Part]:
        """Return a long part as the launches that are best for it."""
        pieces, place = [], self.top
        while part.tokens:
            if part.results > 1:
                used = min(part.tokens, self._widest)
            else:
                used = self._piece(part.sequence, place, part.tokens)[1]
            piece, part = part.cut(used)
            pieces.append(piece)
            place += used
        return pieces

    def _piece(self, sequence: int, place: int, count: int) -> tuple[StepShape, int]:
        """As `piece`, with all rows before `place` in use."""
        # A sequence that begins while others are there has nets of its own.
        begins = place == self.top > self._counts[sequence] == 0
        whole = self.choose([sequence], count, 1) if begins else None
        if place + count <= self._nets.rows:
            with suppress(BundleError):
                plan = self._plan(place, count)
                if whole is None or self._nets.cost(whole.shape) > sum(
                    self._nets.cost(shape) for shape, _ in plan
                ):
                    return plan[0]
        if whole is not None:
            return whole.shape, count
        # The last rows are too few for the nets there: between others there may be room.
        for tokens in (min(count, length) for length in self._lengths):
            if (placement := self.choose([sequence], tokens, 1)) is not None:
                return placement.shape, tokens
        return self._by_cost[0], 1

    def _plan(self, place: int, count: int) -> list[tuple[StepShape, int]]:
        """As `StepNets.plan`, once for a prompt: what is left of a plan is the plan of what is left."""
        if (place, count) not in self._plans:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            pieces, at = self._nets.plan(place, count), place
            for i, (_, used) in enumerate(pieces):
                self._plans[at, place + count - at] = pieces[i:]
                self._plans[at, used] = pieces[i : i + 1]
                at += used
        return self._plans[place, count]

    def _together(self, parts: Sequence[Part]) -> Placement | None:
        """Return how one launch takes all parts; None: there is no such net, or no room."""
        sequences = [part.sequence for part in parts]
        return self.choose(sequences, _tokens(parts), sum(part.results for part in parts))

    def _room(self, shape: StepShape) -> int | None:
        """Where a net's rows can go: where the last ones end, else the lowest place. None: nowhere.

        The net leaves them behind its history, where nobody's may be, and they are copied from there.
        """
        start, tokens = shape.landing(self.size), shape.tokens
        # Beyond the highest row in use there is nothing to look for.
        if start < self.top and (self._owners[start : start + tokens] != FREE).any():
            return None
        if self._is_room(self._next, shape):
            return self._next
        # In the gap that the net's own place lies in, a copy must not overlap that.
        places = (place for gap in self._gaps(tokens) for place in (gap, start, start + tokens))
        return next((place for place in places if self._is_room(place, shape)), None)

    def _gaps(self, count: int) -> list[int]:
        """Return where rows begin of which so many side by side are free."""
        taken = np.flatnonzero(self._owners[: self._nets.rows] != FREE)
        edges = np.concatenate([[-1], taken, [self._nets.rows]])
        gaps: list[int] = (edges[:-1][np.diff(edges) > count] + 1).tolist()
        return gaps

    def _is_room(self, row: int, shape: StepShape) -> bool:
        start, end = shape.landing(self.size), row + shape.tokens
        clear = end <= start or row == start or row >= start + shape.tokens
        free = row >= self.top or not (self._owners[row:end] != FREE).any()
        return clear and end <= self.size and free


def _tokens(parts: Sequence[Part]) -> int:
    return sum([part.tokens for part in parts])
