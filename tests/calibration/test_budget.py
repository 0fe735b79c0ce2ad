"""The precision that a budget of bytes buys is measured on the model."""

from pathlib import Path

import pytest

from bmqwen.calibration.budget import Choice, choose, measure
from bmqwen.errors import InputError
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

SMALL, MIDDLE, LARGE = (
    Choice(Precision("int4", 64, "int4"), 100, 0.1),
    Choice(Precision("int4", 32, "int4"), 110, 0.2),
    Choice(Precision("int8", 64, "int8"), 200, 0.01),
)


def test_the_least_divergence_within_the_budget_is_chosen() -> None:
    every = [SMALL, MIDDLE, LARGE]
    assert choose(every, 150) is SMALL  # more bytes are not always better
    assert choose(every, 200) is LARGE
    with pytest.raises(InputError, match="int4 group 64, lm_head int4 reads 100 bytes a token"):
        choose(every, 99)


def test_finer_formats_are_measured_to_be_nearer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config("qwen2.5"), seed=6)
    with open_checkpoint(folder) as checkpoint:
        found = {str(one.precision): one for one in measure(checkpoint, [list(range(300))] * 2, Silent())}
        body, head, both = (
            found[text].divergence
            for text in ("int8, lm_head int8", "int4 group 32, lm_head int8", "int4 group 32, lm_head int4")
        )
        assert 0 < body < head < both
        # Codes of half a byte; a scale of two bytes and a zero point of one for 32 of them.
        shapes = checkpoint.config.network.shapes().values()
        values = sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)
        assert found["int4 group 32, lm_head int4"].bytes == values * (1 / 2 + 3 / 32)
