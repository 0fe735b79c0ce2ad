"""A published speed, predicted at its real size."""

import pytest

from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.estimate.published import PUBLISHED
from bmqwen.estimate.sophon_demo import estimate_demo
from bmqwen.hub.known_config import known_config
from bmqwen.util.progress import Silent

pytestmark = pytest.mark.simulator


def test_decoding_is_predicted_within_three_per_cent() -> None:
    row = PUBLISHED[0]
    name, config = known_config(row.model, offline=True)
    found = estimate_demo(name, config, row.form, row.context, DEFAULT_CHIP.host, progress=Silent())
    assert found.published == row
    assert found.tokens_per_s == pytest.approx(row.tokens_per_s, rel=0.03)
    assert found.first_token_s == pytest.approx(row.first_token_s, rel=0.03)
