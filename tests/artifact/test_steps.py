"""The planner of step nets: every plan is legal, and the cheapest there is."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.errors import BundleError, InputError

CYCLES = {
    StepShape(1, 64): 1_000_000,
    StepShape(1, 256): 1_200_000,
    StepShape(8, 64): 1_100_000,
    StepShape(8, 256): 1_250_000,
    StepShape(32, 256): 1_400_000,
    StepShape(128, 256): 2_600_000,
}
NETS = StepNets(256, CYCLES)


CALL_NS = round(1e6 * DEFAULT_CHIP.host.op_ms)
# Any subset of these, with any costs: the net for one token after the whole context is always there.
CONTEXT = 48
SHAPES = [StepShape(tokens, history) for tokens in (1, 4, 16, 48, 64) for history in (0, 16, 32, 48)]
NET_SETS = st.dictionaries(st.sampled_from(SHAPES), st.integers(0, 2_000_000)).map(
    lambda cycles: StepNets(CONTEXT, {StepShape(1, CONTEXT): 1_000_000} | cycles)
)


@given(st.one_of(st.just(NETS), NET_SETS), st.data())
def test_plans_are_legal_and_cheapest(nets: StepNets, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, nets.context - 1))
    count = data.draw(st.integers(1, nets.context - position))
    plan = nets.plan(position, count)
    assert sum(used for _, used in plan) == count
    at = position
    for shape, used in plan:
        assert 1 <= used <= shape.tokens
        assert fits(nets, shape, at)
        at += used
    cost = sum(nets.cycles[shape] + CALL_NS for shape, _ in plan)
    assert cost == cheapest(nets, position, count)


@given(st.one_of(st.just(NETS), NET_SETS), st.integers(2, 3), st.data())
def test_plans_of_several_parts_are_legal_and_through_no_later(
    nets: StepNets, parts: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, nets.context - 1))
    count = data.draw(st.integers(1, nets.context - position))
    plan, at = replace(nets, parts=parts).plan(position, count), position
    for shape, used in plan:
        assert 1 <= used <= shape.tokens
        assert fits(nets, shape, at)
        at += used
    assert at == position + count

    def through(row: list[tuple[StepShape, int]]) -> float:
        """When the last of equal parts is done with the last piece, which waits for the longest one."""
        free = [0.0] * parts
        for shape, _ in row:
            end = 0.0
            for part in range(parts):
                end = free[part] = max(end, free[part]) + (nets.cycles[shape] + CALL_NS) / parts
        return free[-1]

    assert through(plan) <= through(nets.plan(position, count)) * (1 + 1e-9)


def test_two_parts_read_a_prompt_in_pieces_where_one_net_is_cheapest() -> None:
    cycles = {StepShape(1, 256): 1_000_000, StepShape(128, 256): 4_000_000, StepShape(32, 256): 1_000_000}
    cheapest = StepNets(
        256, {shape: count + 200_000 * (shape.tokens == 32) for shape, count in cycles.items()}
    )
    assert [shape.tokens for shape, _ in cheapest.plan(0, 128)] == [128]
    assert [shape.tokens for shape, _ in replace(cheapest, parts=2).plan(0, 128)] == [32] * 4


def fits(nets: StepNets, shape: StepShape, position: int) -> bool:
    return position + shape.tokens <= nets.context and (
        shape.history >= position + shape.tokens or shape.history in (position, nets.context)
    )


def cheapest(nets: StepNets, position: int, count: int) -> float:
    """By trying everything."""

    @cache
    def rest(at: int) -> float:
        if at >= position + count:
            return 0
        # Of a length, the net with the shortest history comes first.
        fitting = sorted((shape for shape in nets.cycles if fits(nets, shape, at)), reverse=True)
        chosen = {shape.tokens: shape for shape in fitting}.values()
        return min(nets.cycles[shape] + CALL_NS + rest(at + shape.tokens) for shape in chosen)

    return rest(position)


def test_a_short_prompt_takes_one_short_net() -> None:
    assert NETS.plan(0, 26) == [(StepShape(32, 256), 26)]


def test_decoding_takes_the_shortest_history() -> None:
    assert NETS.shape(1, 64) == StepShape(1, 64)
    assert NETS.shape(1, 63) == StepShape(1, 64)
    assert NETS.shape(1, 65) == StepShape(1, 256)
    assert NETS.shape(8, 250) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit into a context of 256"):
        NETS.plan(200, 57)


def test_a_manifest_survives_and_damage_is_named() -> None:
    details = NETS.to_dict()
    assert StepNets.from_dict(details, "x").cycles == CYCLES
    with pytest.raises(BundleError, match="BM1688"):
        StepNets.from_dict({**details, "chip": "BM1688"}, "x")
    with pytest.raises(BundleError, match="damaged"):
        StepNets.from_dict({**details, "stages": [{"tokens": 1}]}, "x")
    for context in (0, 1 << 40):
        with pytest.raises(BundleError, match="whole model"):
            StepNets.from_dict({**details, "context": context}, "x")
    with pytest.raises(BundleError, match="whole model"):
        StepNets.from_dict({**details, "stages": details["stages"][2:]}, "x")
