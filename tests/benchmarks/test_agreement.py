"""Bmqwen's grid and the peer's, scored against the float model that both were made from."""

from pathlib import Path

import pytest

from agreement import markdown, score_grids
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import open_checkpoint
from q4_0 import q4_0_file
from support.checkpoints import tiny_config, write_gguf


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    return write_gguf(tmp_path / "tiny.gguf", tiny_config("qwen1.5"))


def test_each_grid_is_near_the_float_model_and_none_is_it(source: Path) -> None:
    texts = {"first": "hello the user and you " * 5, "second": "你好。"}
    with open_checkpoint(source) as checkpoint:
        q4_0 = q4_0_file(checkpoint)
    scores = score_grids(source, q4_0, texts, threads=1, progress=Silent())
    assert len({row["first"].nearness for row in scores.values()}) == 2
    for row in scores.values():
        assert list(row) == list(texts)
        for score in row.values():
            assert score.nearness is not None
            assert 1e-5 < score.nearness.mean_kl < 1
    assert [line.count("|") for line in markdown(scores).splitlines()] == [4] * 4


def test_the_float_model_is_the_source(source: Path) -> None:
    near = score_grids(source, source, {"text": "the same"}, threads=1, progress=Silent())
    itself = near["Q4_0, weights alone"]["text"].nearness
    assert itself is not None
    assert itself.mean_kl == pytest.approx(0, abs=1e-9)
    assert itself.top1_agreement == 1
