"""The vendor's published programs: their calls, and a published speed predicted at its real size."""

import pytest

from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.estimate.estimate import PUBLISHED
from bmqwen.hub.known_config import known_config
from published_recipe import predict, table_row
from support.checkpoints import tiny_config

pytestmark = pytest.mark.simulator
LAYERS, CONTEXT = 5, 64


@pytest.mark.thorough
def test_decoding_is_predicted_within_three_per_cent() -> None:
    row = PUBLISHED[0]
    _, config = known_config(row.model, offline=True)
    found = predict(config, row.form, row.context)
    assert 1 / found.token.seconds(DEFAULT_CHIP.host) == pytest.approx(row.tokens_per_s, rel=0.03)
    assert found.first.seconds(DEFAULT_CHIP.host) == pytest.approx(row.first_token_s, rel=0.03)
    line = table_row(row, found, DEFAULT_CHIP.host)
    assert line.startswith("| qwen1.5-1.8b-chat int4 | 0.19")
    assert "| 0.191 s |" in line


def test_published_programs_have_their_calls(simulator: Toolchain) -> None:
    config = tiny_config("qwen1.5", layers=LAYERS, hidden_size=128, intermediate_size=256)
    found = predict(config, "int4", CONTEXT, toolchain=simulator)
    assert found.token.host_ops == 3 * LAYERS + 3
    profiles = {name: timing.profile for name, timing in found.timings.items()}
    one = profiles["embedding_cache"].cycles + profiles["lm_head"].cycles
    assert found.token.device_ns == one + LAYERS * profiles["block_cache"].cycles
    seconds = found.token.device_ns / 1e9 + (3 * LAYERS + 3) * 0.1425e-3
    assert found.token.seconds(DEFAULT_CHIP.host) == pytest.approx(seconds)
    # The history is read, and copied beside the new row.
    history = 2 * 2 * CONTEXT * config.hidden_size
    assert profiles["block_cache"].part_bytes["kv"] > history
