"""Recipes are measured in turn, each by the engine that its file is for."""

import pytest

from bmqwen.errors import InputError
from recipe_speed import entry_of, table


def test_a_gguf_file_is_llama_cpps() -> None:
    assert entry_of("Q4_0=a/b.gguf").engine == "xllamacpp"
    assert entry_of("calibrated=folder").engine == "bmqwen-undrafted"
    with pytest.raises(InputError, match="LABEL=MODEL"):
        entry_of("folder")


def test_ratios_are_taken_within_rounds() -> None:
    rounds = [
        [{"short_tokens_per_s": 60.0}, {"short_tokens_per_s": 40.0}],
        [{"short_tokens_per_s": 30.0}] * 2,
    ]
    assert (
        table(["int4", "Q4_0"], rounds).splitlines()[-1]
        == "| Q4_0 | 35.0 (30.0 to 40.0) | 1.25 (1.00 to 1.50) |"
    )
