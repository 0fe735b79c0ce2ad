"""Recipes that are evaluated in one run."""

from pathlib import Path

from bmqwen.evaluation.comparison import Recipe, recipes_of
from bmqwen.hub.catalog import DEMO
from bmqwen.quant.precision import PrecisionOptions


def test_a_checkpoint_is_compared_with_the_model_that_it_is_of(tmp_path: Path) -> None:
    made, options = str(tmp_path), PrecisionOptions("int4")
    # Where none is named, it is the demo model, and not the checkpoint itself.
    for model, against, wanted in (
        (None, None, DEMO.name),
        ("qwen", None, "qwen"),
        ("qwen", "float", "float"),
    ):
        first, second = recipes_of(model, options, against, [made])
        assert first == Recipe(model, options, against)
        assert second == Recipe(made, PrecisionOptions(), wanted)
