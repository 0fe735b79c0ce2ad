"""The safetensors reader against the safetensors package, and on damaged files."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from bmqwen.errors import CheckpointError
from bmqwen.weights.safetensors import SafetensorsWeights
from support.checkpoints import from_bfloat16, random_weights, tiny_config, to_bfloat16, write_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_reads_what_was_written(
    dtype: Literal["float32", "float16", "bfloat16"], shards: int, tmp_path: Path
) -> None:
    config = tiny_config()
    write_checkpoint(tmp_path, config, seed=1, shards=shards, dtype=dtype)
    weights = SafetensorsWeights(tmp_path / (INDEX if shards > 1 else "model.safetensors"))
    expected = random_weights(config, seed=1)
    assert weights.names() == set(expected)
    for name, values in expected.items():
        stored = from_bfloat16(to_bfloat16(values)) if dtype == "bfloat16" else values.astype(dtype)
        got = weights.read(name)
        assert got.dtype == np.float32
        assert weights.shape(name) == got.shape == values.shape
        np.testing.assert_array_equal(got, stored.astype(np.float32))
        assert weights.dtype(name) == {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    table = weights.read("model.embed_tokens.weight")
    np.testing.assert_array_equal(weights.read_rows("model.embed_tokens.weight", 7, 19), table[7:19])
    assert weights.read_rows("model.embed_tokens.weight", 5, 5).shape == (0, config.hidden_size)
    weights.close()
    weights.close()


def test_agrees_with_the_safetensors_package(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    tensors = random_weights(tiny_config("llama"), seed=2)
    tensors = {name: t.astype(np.float16) if t.ndim == 2 else t for name, t in tensors.items()}
    safetensors_numpy.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    weights = SafetensorsWeights(tmp_path / "model.safetensors")
    for name, values in safetensors_numpy.load_file(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(weights.read(name), values.astype(np.float32))
    weights.close()


def test_unknown_names_and_rows(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    weights = SafetensorsWeights(tmp_path / "model.safetensors")
    for ask in (weights.shape, weights.dtype, weights.read):
        with pytest.raises(CheckpointError, match=r"no\.such"):
            ask("no.such")
    for name, start, stop in (("model.norm.weight", 0, 1), ("model.embed_tokens.weight", 319, 321)):
        with pytest.raises(CheckpointError, match="rows"):
            weights.read_rows(name, start, stop)
    with pytest.raises(CheckpointError, match="rows"):
        weights.read_rows("model.embed_tokens.weight", -1, 3)
    weights.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_that_are_not_finite(
    value: float, dtype: Literal["float32", "float16", "bfloat16"], tmp_path: Path
) -> None:
    config = tiny_config()
    tensors = random_weights(config)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][100, 3] = value
    write_checkpoint(tmp_path, config, dtype=dtype, weights=tensors)
    weights = SafetensorsWeights(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=name):
        weights.read(name)
    with pytest.raises(CheckpointError, match=name):
        weights.read_rows(name, 100, 101)
    assert weights.read_rows(name, 0, 100).shape == (100, config.hidden_size)
    weights.close()


def test_large_finite_values_are_not_taken_for_infinite(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = random_weights(config)
    tensors["model.norm.weight"][:] = 3e38
    write_checkpoint(tmp_path, config, weights=tensors)
    weights = SafetensorsWeights(tmp_path / "model.safetensors")
    assert (weights.read("model.norm.weight") == np.float32(3e38)).all()
    weights.close()


def edit_header(path: Path, change: dict[str, Any]) -> None:
    """Merge `change` into the header of a file; None removes a tensor."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, value in change.items():
        header[name] = value if name not in header or value is None else header[name] | value
    header = {name: value for name, value in header.items() if value is not None}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({NORM: {"shape": [65]}}, NORM),
        ({NORM: {"shape": [-64]}}, "damaged"),
        ({NORM: {"shape": [1 << 62, 1 << 62]}}, NORM),
        ({NORM: {"shape": [1] * 100_000}}, "damaged"),
        ({NORM: {"shape": "64"}}, "damaged"),
        ({NORM: {"shape": [True]}}, "damaged"),
        ({NORM: {"dtype": "I64"}}, "I64"),
        ({NORM: {"dtype": ["F32"]}}, "type"),
        ({NORM: {"data_offsets": [0, 256]}}, "overlap"),
        ({NORM: {"data_offsets": [256, 0]}}, "bytes"),
        ({NORM: {"data_offsets": [0]}}, "damaged"),
        ({NORM: {"data_offsets": [1 << 62, (1 << 62) + 256]}}, "gap"),
        ({NORM: None}, "does not name"),
        ({"extra": 3}, "damaged"),
        ({"extra": {"dtype": "F32", "shape": [0], "data_offsets": [5, 5]}}, "overlap"),
    ],
)
def test_header_that_lies(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    path = tmp_path / "model.safetensors"
    edit_header(path, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        SafetensorsWeights(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 3000, -1])
def test_truncated_file(keep: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        SafetensorsWeights(path)
    assert str(path) in str(caught.value)


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    weights = SafetensorsWeights(tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(CheckpointError, match="truncated"):
        weights.read("lm_head.weight" if "lm_head.weight" in weights.names() else NORM)
    weights.close()


def test_missing_shard(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config(), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        SafetensorsWeights(tmp_path / INDEX)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"absent": "model-00001-of-00002.safetensors"}, "absent"),
        ({NORM: "../model-00001-of-00002.safetensors"}, "not a safetensors file"),
        ({NORM: "/etc/passwd"}, "not a safetensors file"),
        ({NORM: 5}, "not a safetensors file"),
        ({NORM: "x" * 5000 + ".safetensors"}, "not a safetensors file"),
        ({}, "weight_map"),
        (["x"], "weight_map"),
        (None, "weight_map"),
    ],
)
def test_index_that_lies(weight_map: object, words: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config(), shards=2)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=words):
        SafetensorsWeights(tmp_path / INDEX)
