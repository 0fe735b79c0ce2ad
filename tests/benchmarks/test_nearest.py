"""What plain rounding to nearest costs, measured as bmqwen's own rounding is."""

from pathlib import Path

import pytest

from bmqwen.evaluation.model_pair import open_pair
from bmqwen.evaluation.text_score import evaluate_text
from bmqwen.quant.precision import Precision
from nearest import open_nearest
from support.checkpoints import tiny_config, write_checkpoint

TEXT = "hello you and the system, 你好。 They walked to the river. " * 4


def test_it_is_further_from_the_float_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    folder = write_checkpoint(tmp_path / "model", tiny_config("qwen2.5"), seed=3)
    precision = Precision("int4", 64, "int8")
    with open_nearest(str(folder), precision) as pair:
        nearest = evaluate_text(pair, TEXT).nearness
    assert [p.name for p in (tmp_path / "cache" / "benchmarks").iterdir()] == []
    with open_pair(str(folder), precision, threads=1) as pair:
        searched = evaluate_text(pair, TEXT).nearness
    assert nearest is not None
    assert searched is not None
    assert nearest.perplexity == pytest.approx(searched.perplexity, rel=1e-4)
    assert nearest.mean_kl > searched.mean_kl > 0
