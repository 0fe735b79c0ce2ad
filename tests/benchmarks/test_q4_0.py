"""The Q4_0 file that the benchmark makes for its peer."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from bmqwen.errors import InputError
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.gguf_file import GgufFile
from q4_0 import q4_0_file
from support.checkpoints import tiny_config, write_gguf


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "benchmarks"


def test_matrices_are_q4_0_the_head_q8_0_and_all_else_is_as_it_was(tmp_path: Path, cache: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", tiny_config("qwen1.5"))
    with open_checkpoint(source) as before:
        made = q4_0_file(before)
        assert made.parent == cache
        with open_checkpoint(made) as after:
            assert after.config == before.config
            assert after.tokenizer_files() == before.tokenizer_files()
            assert after.precision == "Q4_0"
            for name in before.weights.names():
                old, new = before.weights.read(name), after.weights.read(name)
                if old.ndim == 1:
                    np.testing.assert_array_equal(new, old)
                elif name == "lm_head.weight":
                    np.testing.assert_allclose(new, old, atol=np.abs(old).max() / 200)
                else:
                    kind = gguf.GGMLQuantizationType.Q4_0
                    expected = gguf.quants.dequantize(gguf.quants.quantize(old, kind), kind)
                    np.testing.assert_array_equal(new, expected)
    kinds = {name: tensor.type_name for name, tensor in GgufFile(made).tensors.items()}
    assert kinds.pop("output.weight") == "Q8_0"
    assert {kind for name, kind in kinds.items() if "norm" not in name and "bias" not in name} == {"Q4_0"}


def test_it_is_made_once_for_each_content(tmp_path: Path, cache: Path) -> None:
    first = write_gguf(tmp_path / "tiny.gguf", tiny_config(), seed=1)
    with open_checkpoint(first) as checkpoint:
        made = q4_0_file(checkpoint)
        stamp = made.stat().st_mtime_ns
        assert q4_0_file(checkpoint) == made
        assert made.stat().st_mtime_ns == stamp
    write_gguf(first, tiny_config(layers=1), seed=2)
    with open_checkpoint(first) as checkpoint:
        assert q4_0_file(checkpoint) != made
    assert len(list(cache.glob("*.gguf"))) == 2


def test_rows_that_it_cannot_hold_leave_no_file(tmp_path: Path, cache: Path) -> None:
    source = write_gguf(tmp_path / "odd.gguf", tiny_config(hidden_size=48, heads=4, head_dim=16))
    with open_checkpoint(source) as checkpoint, pytest.raises(InputError, match="multiple of 32"):
        q4_0_file(checkpoint)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
