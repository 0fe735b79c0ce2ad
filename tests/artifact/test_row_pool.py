"""Rows of a shared K/V cache: nobody's are lost or overwritten, whatever the sequences do."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bmqwen.artifact.row_pool import Part, Placement, RowPool
from bmqwen.artifact.steps import StepNets, StepShape, step_shapes

CONTEXT, SEQUENCES = 32, 3
SHAPES = step_shapes(CONTEXT, SEQUENCES)


def nets_of(context: int, sequences: int, shapes: Sequence[StepShape]) -> StepNets:
    cycles = {s: 1_000_000 + 10_000 * s.tokens + 1000 * s.history if s.rows else 400_000 for s in shapes}
    return StepNets(context, cycles, sequences=sequences)


class Cache:
    """What a device does with its rows: a net leaves them behind its history, and they are copied to their place."""

    def __init__(self, nets: StepNets) -> None:
        self.rows = np.zeros((nets.rows + max(s.tokens for s in nets.cycles), 2), np.int64)
        self.pool = RowPool(nets, self.move)
        self.texts: list[list[tuple[int, int]]] = [[] for _ in range(nets.sequences)]
        self.count = 0
        self.moves = 0

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        self.moves += 1
        assert 0 < len(rows) <= shape.tokens
        assert (rows < shape.history).all()
        assert to + shape.tokens <= self.pool.size
        # What is not used is copied all the same.
        moved = np.full((shape.tokens, 2), -1)
        moved[: len(rows)] = self.rows[rows]
        self.rows[to : to + shape.tokens] = moved

    def step(self, feeds: Sequence[tuple[int, int]]) -> list[Placement]:
        """Append so many tokens to sequences; return the launches."""
        self.pool.arrange([sequence for sequence, _ in feeds])
        parts = [Part(i, sequence, 0, count, 1) for i, (sequence, count) in enumerate(feeds)]
        done = []
        for group, _ in self.pool.launches(parts):
            for placement, taken in self.pool.place(group):
                self.launch(placement, taken)
                done.append(placement)
        return done

    def launch(self, placement: Placement, parts: Sequence[Part]) -> None:
        shape, row = placement
        tokens = sum(part.tokens for part in parts)
        assert tokens <= shape.tokens
        assert sum(part.results for part in parts) <= shape.rows
        new = []
        for part in parts:
            # A net sees its history only.
            assert (self.pool.rows(part.sequence) < shape.history).all()
            for _ in range(part.tokens):
                self.count += 1
                new.append((part.sequence, self.count))
                self.texts[part.sequence].append(new[-1])
        written = np.full((shape.tokens, 2), -1)
        written[:tokens] = new
        start = shape.landing(self.pool.size)
        self.rows[start : start + shape.tokens] = written
        source = range(start, start + shape.tokens)
        assert row == start or not set(source) & set(range(row, row + shape.tokens))
        self.rows[row : row + shape.tokens] = written
        self.pool.append(row, [(part.sequence, part.tokens) for part in parts])

    def check(self) -> None:
        for sequence, text in enumerate(self.texts):
            assert self.rows[self.pool.rows(sequence)].tolist() == [list(entry) for entry in text]
            assert self.pool.position(sequence) == len(text)


# Shrinking a long history takes minutes.
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate], max_examples=60)
@given(st.data())
def test_every_sequence_keeps_its_rows(data: st.DataObject) -> None:
    cache = Cache(nets_of(CONTEXT, SEQUENCES, SHAPES))
    for _ in range(data.draw(st.integers(1, 30))):
        chosen = data.draw(st.lists(st.integers(0, SEQUENCES - 1), unique=True, max_size=SEQUENCES))
        feeds = []
        for sequence in chosen:
            known = cache.pool.position(sequence)
            if known == CONTEXT or data.draw(st.integers(0, 5)) == 0:
                kept = data.draw(st.integers(0, known))
                cache.pool.truncate(sequence, kept)
                del cache.texts[sequence][kept:]
            else:
                feeds.append((sequence, data.draw(st.sampled_from([1, 1, 1, 3, CONTEXT - known]))))
        feeds = [(s, min(count, CONTEXT - cache.pool.position(s))) for s, count in feeds]
        if feeds:
            cache.step(feeds)
        cache.check()


def test_a_sequence_alone_lies_as_in_a_cache_of_its_own() -> None:
    """Row and position are the same, and the nets are those of the plan."""
    nets = nets_of(CONTEXT, SEQUENCES, SHAPES)
    cache = Cache(nets)
    assert [p.row for p in cache.step([(1, 20)])] == [0]
    for position in range(20, CONTEXT):
        (placement,) = cache.step([(1, 1)])
        assert placement.row == position
        assert nets.cycles[placement.shape] == nets.cycles[nets.plan(position, 1)[0][0]]


def test_all_take_one_launch_a_step() -> None:
    cache = Cache(nets_of(CONTEXT, SEQUENCES, SHAPES))
    cache.step([(0, 5), (1, 6), (2, 7)])
    for _ in range(CONTEXT - 7):
        assert len(cache.step([(0, 1), (1, 1), (2, 1)])) == 1
    cache.check()
    assert cache.moves == 0


def test_a_prompt_is_read_in_the_step_of_the_others() -> None:
    cache = Cache(nets_of(512, 8, step_shapes(512, 8)))
    cache.step([(s, 200) for s in range(7)])
    (placement,) = cache.step([*((s, 1) for s in range(7)), (7, 26)])
    assert placement.shape == StepShape(64, 2048, 8)


def test_a_conversation_begins_beside_others_without_a_look_at_their_rows() -> None:
    cache = Cache(nets_of(512, 8, step_shapes(512, 8)))
    cache.step([(s, 200) for s in range(7)])
    assert cache.pool.piece(7, 100) == 100
    (placement,) = cache.step([(7, 100)])
    assert placement == (StepShape(128, 0, 8), 1400)
    cache.check()


def test_a_piece_of_a_prompt_takes_the_others_no_longer_than_twice_their_time() -> None:
    nets = nets_of(512, 8, step_shapes(512, 8))
    cache = Cache(nets)
    cache.step([(s, 200) for s in range(7)])
    for beside in (1, 3, 7):
        used = cache.pool.piece(7, 300, beside)
        (alone,), (both,) = (
            cache.step([(s, 1) for s in range(beside)]),
            cache.step([*((s, 1) for s in range(beside)), (7, used)]),
        )
        assert used + beside in (32, 64, 128)
        assert nets.cost(both.shape) <= 2 * nets.cost(alone.shape)
        cache.pool.truncate(7, 0)
        cache.texts[7].clear()
    # Where no net takes both, one after the other must not take longer.
    apart = nets_of(512, 8, [s for s in step_shapes(512, 8) if s.rows in (1, s.tokens)])
    assert 1 <= RowPool(apart).piece(0, 300, 3) <= 128


def test_rows_move_together_when_there_is_no_room_between_them() -> None:
    cache = Cache(nets_of(CONTEXT, SEQUENCES, SHAPES))
    for _ in range(CONTEXT):
        cache.step([(0, 1), (1, 1), (2, 1)])
    for sequence in (0, 1):
        cache.pool.truncate(sequence, 0)
        cache.texts[sequence].clear()
    # Between the rows of the third there are gaps of two.
    cache.step([(0, CONTEXT)])
    cache.step([(1, CONTEXT)])
    cache.check()
    assert cache.moves


def test_rows_of_those_that_pause_make_room_for_those_that_go_on() -> None:
    """One of eight goes on after the others have ended, then another one of them: each costs what it costs alone."""
    nets = nets_of(512, 8, step_shapes(512, 8))
    cache = Cache(nets)
    cache.step([(s, 30) for s in range(8)])
    for _ in range(200):
        cache.step([(s, 1) for s in range(8)])
    for sequence in (5, 2):
        for _ in range(10):
            (placement,) = cache.step([(sequence, 1)])
        assert placement.shape.tokens == 1
        assert placement.shape.history <= 512
        cache.check()
    # Together again they take the place of the whole.
    (placement,) = cache.step([(s, 1) for s in range(8)])
    assert placement.shape.history >= 8 * 230
    cache.check()


@pytest.mark.parametrize("sequences", [2, 8, 16])
@pytest.mark.parametrize("context", [32, 64, 512, 1024])
def test_all_sequences_can_be_full(context: int, sequences: int) -> None:
    cache = Cache(nets_of(context, sequences, step_shapes(context, sequences)))
    for sequence in range(sequences):
        cache.step([(sequence, context - 1)])
    cache.step([(sequence, 1) for sequence in range(sequences)])
    cache.check()


def test_groups_are_as_many_as_give_tokens_soonest() -> None:
    """A step of one costs less than one of eight; more than sixteen share no step."""
    pool = RowPool(nets_of(512, 32, step_shapes(512, 32)))
    groups = {answers: pool.groups(answers, 2) for answers in (0, 1, 2, 3, 8, 9, 16, 17, 32)}
    assert groups == {0: 1, 1: 1, 2: 2, 3: 1, 8: 1, 9: 2, 16: 2, 17: 2, 32: 2}
    assert pool.groups(3, 3) == 3
    assert pool.groups(32, 1) == 1
