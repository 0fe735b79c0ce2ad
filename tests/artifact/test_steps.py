"""The planner of step nets: every plan is legal, and the cheapest there is."""

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


@given(st.integers(0, 255), st.data())
def test_plans_are_legal_and_cheapest(position: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 256 - position))
    plan = NETS.plan(position, count)
    assert sum(used for _, used in plan) == count
    at = position
    for shape, used in plan:
        assert 1 <= used <= shape.tokens
        assert shape.history >= at
        assert at + shape.tokens <= NETS.context
        at += used
    cost = sum(CYCLES[shape] + 1e6 * DEFAULT_CHIP.host.op_ms for shape, _ in plan)
    assert cost == cheapest(position, count)


@cache
def cheapest(position: int, count: int) -> float:
    """By trying everything."""
    if count <= 0:
        return 0
    options = [
        cycles
        + 1e6 * DEFAULT_CHIP.host.op_ms
        + cheapest(position + min(shape.tokens, count), count - shape.tokens)
        for shape, cycles in CYCLES.items()
        if position + shape.tokens <= NETS.context
        and (shape.history >= position + shape.tokens or shape.history in (position, NETS.context))
    ]
    return min(options)


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
    with pytest.raises(BundleError, match="whole model"):
        StepNets.from_dict({**details, "stages": details["stages"][2:]}, "x")
