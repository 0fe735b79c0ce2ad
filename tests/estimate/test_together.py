"""Conversations side by side through made-up nets, against sums by hand."""

import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.timing import Profile
from bmqwen.estimate.cost import Chips
from bmqwen.estimate.forecast import PROMPT_MS, PROMPT_TOKEN_MS, STEP_MS, TOKEN_MS, Question
from bmqwen.estimate.together import simulate_together

CYCLES = {
    StepShape(1, 64): 1_000_000,
    StepShape(32, 0): 1_800_000,
    StepShape(32, 64): 2_000_000,
    StepShape(8, 64, 8): 1_100_000,
    StepShape(8, 320, 8): 1_500_000,
    StepShape(32, 0, 8): 1_900_000,
    StepShape(32, 320, 8): 2_500_000,
}
HOST = Host("test", 0.2, 10)
ROW_BYTES = 26_000
COPY_NS = ROW_BYTES / DEFAULT_CHIP.copy * 1e9


def nets(*without: StepShape) -> StepNets:
    """For four conversations of 64 tokens, which share 320 rows."""
    cycles = {shape: count for shape, count in CYCLES.items() if shape not in without}
    return StepNets(64, cycles, sequences=4)


PROFILES = {shape: Profile(cycles, 1, 1, 1) for shape, cycles in CYCLES.items()}
HALVES = {shape: Profile(cycles // 2, 1, 1, 1) for shape, cycles in CYCLES.items()}
PYTHON_NS = 1e7 * (STEP_MS + 4 * TOKEN_MS)


def test_a_step_gives_each_conversation_a_token() -> None:
    """After four prompts of 12 tokens those at rows 48, 52 and 56 end before row 64, where the short net writes."""
    found = simulate_together(nets(), Chips([PROFILES], ROW_BYTES), HOST, Question(12, 20), 4)
    # That at row 64 follows its whole history: its rows need not be copied.
    launches = 4 * 1_100_000 + 15 * 1_500_000
    copied = 18 * 8
    spent = launches + copied * COPY_NS + 19 * (3 * 0.2e6 + PYTHON_NS)
    assert found.step_s == pytest.approx(spent / 19 / 1e9)
    assert found.tokens_per_s == pytest.approx(4 / found.step_s)
    assert found.copied_bytes_per_step == pytest.approx(copied * ROW_BYTES / 19)


def test_a_prompt_comes_while_the_others_go_on() -> None:
    question = Question(12, 20)
    prompt_ns = 3 * 0.2e6 + 1e7 * (PROMPT_MS + 12 * PROMPT_TOKEN_MS)
    # Three prompts and half of their answers are 66 rows: the others' step takes the long history.
    waits = (1_500_000 + 8 * COPY_NS + 3 * 0.2e6 + 1e7 * (STEP_MS + 3 * TOKEN_MS)) / 2
    # Read by itself it would hold them up longer than a step of their own: one launch takes all.
    found = simulate_together(nets(), Chips([PROFILES], ROW_BYTES), HOST, question, 4)
    both = 2_500_000 + 32 * COPY_NS + 1e7 * 3 * TOKEN_MS
    assert found.first_token_s == pytest.approx((waits + both + prompt_ns) / 1e9)
    # A net that begins a conversation sooner reads it alone.
    short = StepShape(16, 0, 8)
    quick = StepNets(64, CYCLES | {short: 1_400_000}, sequences=4)
    profiles = PROFILES | {short: Profile(1_400_000, 1, 1, 1)}
    found = simulate_together(quick, Chips([profiles], ROW_BYTES), HOST, question, 4)
    assert found.first_token_s == pytest.approx((waits + 1_400_000 + 16 * COPY_NS + prompt_ns) / 1e9)


def test_of_several_chips_each_launch_costs_calls_on_all_of_them() -> None:
    one = simulate_together(nets(), Chips([PROFILES], ROW_BYTES), HOST, Question(12, 20), 4)
    two = simulate_together(nets(), Chips([HALVES, HALVES], ROW_BYTES), HOST, Question(12, 20), 4)
    # A launch with its inputs, and the hidden rows that are read.
    assert two.step_s - one.step_s == pytest.approx(3 * 0.2e-3)
    assert two.groups == 1


def test_groups_on_two_chips_give_twice_the_tokens() -> None:
    """Where a step for four conversations costs half of one for eight."""
    cycles = {shape: count for shape, count in CYCLES.items() if shape.rows == 1} | {
        StepShape(4, 576, 4): 1_100_000,
        StepShape(8, 576, 8): 2_200_000,
    }
    many = StepNets(64, cycles, sequences=8)
    halves = {shape: Profile(count // 2, 1, 1, 1) for shape, count in cycles.items()}
    free = Host("test", 0.0, 0)
    four = simulate_together(many, Chips([halves, halves]), free, Question(12, 20), 4)
    eight = simulate_together(many, Chips([halves, halves]), free, Question(12, 20), 8)
    assert (four.groups, eight.groups) == (1, 2)
    assert four.step_s == pytest.approx(1.1e-3)
    # The second group's first step waits for the first group's to leave the first chip.
    assert eight.step_s == pytest.approx(1.1e-3 * (19 + 0.5) / 19)
    # A prompt waits half of a group's step by two groups; it is read beside four, in pieces one behind the other.
    assert eight.first_token_s == pytest.approx(1.1e-3 / 4 + 3.3e-3)
