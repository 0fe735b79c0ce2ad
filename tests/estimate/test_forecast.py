"""A conversation followed through made-up nets, against sums by hand."""

import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.timing import Profile
from bmqwen.errors import InputError
from bmqwen.estimate.cost import Chips
from bmqwen.estimate.forecast import (
    PROMPT_MS,
    PROMPT_TOKEN_MS,
    STEP_MS,
    TOKEN_MS,
    Question,
    cost_at,
    custom_host,
    simulate,
)

CYCLES = {
    StepShape(1, 32): 1_000_000,
    StepShape(1, 96): 1_300_000,
    StepShape(8, 96): 1_500_000,
    StepShape(32, 0): 1_900_000,
    StepShape(32, 96): 2_000_000,
}
NETS = StepNets(96, CYCLES)
HOST = Host("test", 0.2, 10)
PYTHON_S = 10 * (STEP_MS + TOKEN_MS) / 1e3


def profile(cycles: int) -> Profile:
    parts = {"weights": cycles // 2, "kv": cycles // 4, "lm_head": cycles // 8, "other": cycles // 8}
    return Profile(
        cycles, 40 * cycles, cycles, 2 * cycles, cycles // 10, parts, {p: 43 * n for p, n in parts.items()}
    )


PROFILES = {shape: profile(cycles) for shape, cycles in CYCLES.items()}


def test_sums_by_hand() -> None:
    found = simulate(NETS, Chips([PROFILES]), HOST, Question(26, 20))
    assert found.prompt_launches == ((StepShape(32, 0), 26),)
    assert found.first_token_s == pytest.approx(
        1.9e-3 + 3 * 0.2e-3 + 1e-2 * (PROMPT_MS + 26 * PROMPT_TOKEN_MS)
    )
    # The tokens at 26 to 32 follow 32 others at most, those at 33 to 44 more.
    spent = 7 * 1.0e-3 + 12 * 1.3e-3 + 19 * (3 * 0.2e-3 + PYTHON_S)
    assert found.tokens_per_s == pytest.approx(19 / spent)
    assert found.bandwidth == pytest.approx(45e9)
    assert found.time_shares["host"] == pytest.approx(19 * 0.6e-3 / spent)
    assert found.time_shares["python"] == pytest.approx(19 * PYTHON_S / spent)
    assert sum(found.time_shares.values()) == pytest.approx(1)
    assert sum(found.byte_shares.values()) == pytest.approx(1)
    assert [start for start, _ in found.curve] == [0, 33]
    assert cost_at(found.curve, 33) == pytest.approx(1.9e-3 + PYTHON_S)
    assert cost_at(found.curve, 32) == pytest.approx(1.6e-3 + PYTHON_S)


@pytest.mark.parametrize(("history", "prompt", "answer"), [(0, 1, 2), (0, 60, 36), (40, 30, 20), (3, 33, 9)])
def test_launches_are_those_of_the_planner(history: int, prompt: int, answer: int) -> None:
    found = simulate(NETS, Chips([PROFILES]), HOST, Question(prompt, answer, history))
    plan = NETS.plan(history, prompt)
    assert list(found.prompt_launches) == plan
    assert found.first.host_ops == 2 * len(plan) + 1
    fed = [step for at in range(answer - 1) for step in NETS.plan(history + prompt + at, 1)]
    assert found.answer.device_ns == sum(CYCLES[shape] for shape, _ in fed)
    assert found.answer.host_ops == 2 * len(fed) + answer - 1


def test_rows_in_the_middle_of_a_history_are_copied() -> None:
    question = Question(26, 20)
    free = simulate(NETS, Chips([PROFILES]), HOST, question)
    found = simulate(NETS, Chips([PROFILES], 26_000), HOST, question)
    # The prompt begins a conversation. Of the tokens at 26 to 44 only that at 32 follows a whole history.
    assert found.first == free.first
    assert found.answer.copied_bytes == 18 * 26_000
    assert found.answer.device_ns == free.answer.device_ns + 18 * 1000
    assert found.answer.bytes_moved == free.answer.bytes_moved + 2 * 18 * 26_000
    assert sum(found.time_shares.values()) == pytest.approx(1)
    assert sum(found.byte_shares.values()) == pytest.approx(1)
    later = simulate(NETS, Chips([PROFILES], 26_000), HOST, Question(26, 20, 40))
    # A step of 32 writes 32 rows, whatever it was given.
    assert later.first.copied_bytes == 32 * 26_000
    assert cost_at(found.curve, 0) == pytest.approx(cost_at(free.curve, 0) + 1e-6)


def test_states_are_copied_by_what_nets_of_so_many_tokens_leave_elsewhere() -> None:
    question = Question(26, 20)
    free = simulate(NETS, Chips([PROFILES]), HOST, question)
    found = simulate(NETS, Chips([PROFILES], state_bytes={1: 52_000, 32: 260_000}), HOST, question)
    assert (found.first.copied_bytes, found.answer.copied_bytes) == (260_000, 19 * 52_000)
    assert found.answer.device_ns == free.answer.device_ns + 19 * 2000


def test_json_has_what_a_benchmark_has_and_more() -> None:
    stated = simulate(NETS, Chips([PROFILES]), HOST, Question(26, 20)).to_dict()
    assert stated["host_ops_per_token"] == 3
    assert (stated["python_s_per_token"], stated["python_factor"]) == (pytest.approx(PYTHON_S), 10)
    assert stated["device_s_per_token"] == pytest.approx((7 * 1.0e-3 + 12 * 1.3e-3) / 19)
    assert stated["bytes_per_token"] == pytest.approx(45e9 * stated["device_s_per_token"])
    assert stated["bus_share"] == pytest.approx(45e9 / DEFAULT_CHIP.bus)
    assert stated["bus_idle_share"] == pytest.approx(0.1)
    assert [net["cycles"] for net in stated["nets"]] == [CYCLES[shape] for shape in sorted(CYCLES)]
    assert [point["history"] for point in stated["curve"]] == [0, 33]


def test_profiles_without_parts_give_the_chip_as_one() -> None:
    bare = {shape: Profile(cycles, 1, 2, 3) for shape, cycles in CYCLES.items()}
    found = simulate(NETS, Chips([bare]), HOST, Question(26, 20))
    assert set(found.time_shares) == {"device", "host", "python"}
    assert found.byte_shares == {}
    assert found.to_dict()["bus_idle_share"] is None


@pytest.mark.parametrize(
    ("history", "prompt", "answer"), [(0, 0, 5), (0, 5, 1), (-1, 5, 5), (0, 90, 7), (60, 30, 7)]
)
def test_what_does_not_fit_is_refused(history: int, prompt: int, answer: int) -> None:
    with pytest.raises(InputError):
        simulate(NETS, Chips([PROFILES]), HOST, Question(prompt, answer, history))


def test_the_answer_is_as_long_as_fits() -> None:
    assert Question(26).answer_in(512) == 350
    assert Question(26).answer_in(96) == 70
    assert Question(26, 9).answer_in(96) == 9
    assert Question(26, history=20).answer_in(96) == 50


@pytest.mark.parametrize("op_ms", [-0.1, float("nan"), float("inf"), 1e6])
def test_a_host_of_no_sense_is_refused(op_ms: float) -> None:
    with pytest.raises(InputError, match="--host-op-ms"):
        custom_host(HOST, op_ms)


def test_a_card_costs_more_than_the_box() -> None:
    assert DEFAULT_CHIP.host.op_ms == pytest.approx(0.1425)
    assert DEFAULT_CHIP.hosts["pcie"].op_ms > DEFAULT_CHIP.host.op_ms


def test_of_two_chips_the_second_piece_of_a_prompt_is_read_beside_the_first() -> None:
    halves = {shape: profile(cycles // 2) for shape, cycles in CYCLES.items()}
    one = simulate(NETS, Chips([PROFILES]), HOST, Question(64, 10))
    two = simulate(NETS, Chips([halves, halves], 0, 2_000), HOST, Question(64, 10))
    assert [shape for shape, _ in two.prompt_launches] == [StepShape(32, 0), StepShape(32, 96)]
    # 32 hidden rows of 2,000 bytes are read, and written to the other chip.
    handed = 32 * 2_000 / HOST.copy
    # Launch and hidden rows on the first chip; the second launch begins when they are handed over.
    first, second = 0.95e-3 + 3 * 0.2e-3 + handed, 1.0e-3 + 3 * 0.2e-3 + handed
    last = first + second + handed + 1.0e-3 + 2 * 0.2e-3
    others = 0.2e-3 + 1e-2 * (PROMPT_MS + 64 * PROMPT_TOKEN_MS)
    assert two.first_token_s == pytest.approx(last + others)
    # A token alone: the same cycles, three more calls, and its row on two ways.
    assert two.token_s - one.token_s == pytest.approx(3 * 0.2e-3 + 2 * 2_000 / HOST.copy)
    assert two.to_dict()["handed_bytes_per_token"] == 2_000
    assert two.to_dict()["chips"] == 2
