"""How much of a prompt is read in a step beside answers."""

from itertools import product

import pytest

from bmqwen.runtime.cpu_pace import ANSWER_COST, GROUP, MOST_STEPS, STEP_COST, Pace


def rows(left: int, answers: int, *, joined: bool = True) -> int:
    return Pace().rows_beside(left, answers, 1, joined=joined)


def test_pieces_are_as_long_as_two_steps_allow() -> None:
    beside = (1, 2, 4, 7, 15, 31)
    assert [rows(800, answers) for answers in beside] == [4, 4, 8, 12, 20, 40]
    # In runs of their own their time is counted alone.
    assert [rows(800, answers, joined=False) for answers in beside] == [8, 8, 16, 20, 40, 80]


@pytest.mark.parametrize(
    ("answers", "joined", "longest"),
    [(1, True, 5), (4, True, 8), (7, True, 11), (7, False, 20), (1, False, 8)],
)
def test_the_end_is_shorter_where_answers_have_a_run_before_it(
    answers: int, joined: bool, longest: int
) -> None:
    assert rows(longest, answers, joined=joined) == longest
    assert rows(longest + 1, answers, joined=joined) < longest


@pytest.mark.parametrize("joined", [True, False])
def test_whatever_is_left_pieces_are_whole_groups_and_the_end_is_no_row_alone(joined: bool) -> None:
    pace = Pace()
    for cost, left, answers, waiting in product((0.1, 0.17, 0.27, 0.5), range(1, 130), (1, 3, 7, 31), (1, 8)):
        pace.row_cost = cost
        size = pace.rows_beside(left, answers, waiting, joined=joined)
        assert 0 < size <= left
        assert size == left or (size % GROUP == 0 and left - size > 1)
        # A group, and a row that is left over, are read whatever they take.
        step, later = (STEP_COST + ANSWER_COST * count for count in (answers, answers + waiting))
        assert size <= GROUP + 1 or step * joined + cost * size <= MOST_STEPS * later
