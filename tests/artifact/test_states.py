"""Where a model's states lie for each net: only that of one token changes them where they are."""

import json
from dataclasses import replace

import pytest

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.states import copied_states, state_bytes, state_names, uses_kernel, written_name
from bmqwen.artifact.steps import step_shapes
from bmqwen.model.config import LinearAttention
from support.checkpoints import tiny_config

CONFIG = tiny_config("qwen3.5", layers=4)
WIDER = replace(CONFIG, linear=LinearAttention(2, 4, 16, 32, 4))


def test_one_token_leaves_the_rule_its_state_and_copies_the_convolution_s() -> None:
    convolution = [f"conv_state.{layer}" for layer in range(3)]
    assert copied_states(CONFIG, 1) == convolution
    assert copied_states(CONFIG, 8) == list(state_names(CONFIG))
    # Halves: 3 rows of 2 keys and 4 values of 16, and 4 heads of 16 x 16.
    assert state_bytes(CONFIG, convolution) == 2 * 3 * 3 * (2 * 2 * 16 + 4 * 16)
    assert state_bytes(CONFIG) == state_bytes(CONFIG, convolution) + 2 * 3 * 4 * 16 * 16
    # The kernel has one width for keys and values.
    assert not uses_kernel(WIDER, 1)
    assert copied_states(WIDER, 1) == list(state_names(WIDER))
    assert copied_states(tiny_config("qwen3"), 1) == []


@pytest.mark.parametrize("config", [CONFIG, WIDER])
def test_outputs_lie_over_their_inputs_only_where_the_kernel_writes(config) -> None:  # type: ignore[no-untyped-def]
    shapes = step_shapes(96, states=True)
    places = AddressMap(config, shapes)
    for shape in shapes:
        stated = json.loads(places.text(shape, 1 << 20, 0))
        ports = {
            one["name"]: range(one["address"], one["address"] + one["size"])
            for side in ("inputs", "outputs")
            for one in stated[side]
        }
        copied = copied_states(config, shape.tokens)
        for name in state_names(config):
            before, after = ports[name], ports[written_name(name)]
            if name in copied:
                assert before.stop <= after.start or after.stop <= before.start
            else:
                assert before == after
