"""What a precision stands for, read as float32: the grid that exports and compiled models hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import MODEL_FILE, Bundle
from bmqwen.emit.export import export_onnx
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision
from bmqwen.quant.rounding import quantize
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import Checkpoint, open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

DOWN = "model.layers.1.mlp.down_proj.weight"
TABLE = "model.embed_tokens.weight"
TOKENS = [3, 17, 99, 256, 4, 4, 180, 33]


@pytest.fixture(params=[True, False], ids=["tied", "untied"], name="checkpoint")
def checkpoint_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    write_checkpoint(tmp_path / "checkpoint", tiny_config("qwen2.5", tied=request.param), seed=11)
    return open_checkpoint(tmp_path / "checkpoint")


def grid_of(checkpoint: Checkpoint, precision: Precision) -> GridWeights:
    return GridWeights(checkpoint.weights, checkpoint.config, precision)


def test_matrices_are_on_their_grid_and_the_rest_is_as_it_was(checkpoint: Checkpoint) -> None:
    precision = Precision("int4", 32, "int8")
    grid = grid_of(checkpoint, precision)
    head = "lm_head.weight"
    stored_head = TABLE if checkpoint.config.tie_word_embeddings else head
    original = checkpoint.weights.read
    np.testing.assert_array_equal(grid.read(DOWN), quantize(original(DOWN), 4, 32).dequantize())
    np.testing.assert_array_equal(grid.read(head), quantize(original(stored_head), 8, 64).dequantize())
    np.testing.assert_array_equal(grid.read(TABLE), original(TABLE).astype(np.float16).astype(np.float32))
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.bias"):
        np.testing.assert_array_equal(grid.read(name), original(name))
    # Sixteen steps a group leave an error, and one in proportion.
    error = np.abs(grid.read(DOWN) - original(DOWN)).mean() / np.abs(original(DOWN)).mean()
    assert 0.02 < error < 0.2


def test_rounding_to_nearest_is_offered_for_comparison(checkpoint: Checkpoint) -> None:
    nearest = GridWeights(checkpoint.weights, checkpoint.config, Precision("int4", 32, "int8"), search=False)
    original = checkpoint.weights.read(DOWN)
    np.testing.assert_array_equal(nearest.read(DOWN), quantize(original, 4, 32, search=False).dequantize())
    searched = grid_of(checkpoint, Precision("int4", 32, "int8")).read(DOWN)
    assert np.square(searched - original).mean() < np.square(nearest.read(DOWN) - original).mean()


def test_the_head_is_offered_beside_a_tied_table(checkpoint: Checkpoint) -> None:
    grid = grid_of(checkpoint, Precision("int4", 32, "int4"))
    expected = grid.config.network.shapes()
    assert grid.names() >= set(expected)
    assert "lm_head.weight" in expected
    assert all(grid.shape(name) == shape for name, shape in expected.items())


def test_rows_are_those_of_the_whole(checkpoint: Checkpoint) -> None:
    grid = grid_of(checkpoint, Precision("int4", 32, "int8"))
    for name in (DOWN, TABLE, "lm_head.weight"):
        np.testing.assert_array_equal(grid.read_rows(name, 5, 40), grid.read(name)[5:40])


def test_float32_changes_nothing(checkpoint: Checkpoint) -> None:
    grid = grid_of(checkpoint, Precision.choose("f32"))
    for name in checkpoint.config.network.shapes():
        np.testing.assert_array_equal(grid.read(name), checkpoint.weights.read(name))


@pytest.mark.parametrize(
    "precision",
    [Precision("int4", 32, "int8"), Precision("int8", 32, "int4"), Precision("f16", 32, "f16")],
    ids=str,
)
def test_a_float_model_of_them_computes_what_an_export_computes(
    checkpoint: Checkpoint, precision: Precision, tmp_path: Path
) -> None:
    """The plain dialect multiplies in float32 with the weights as its graph dequantises them."""
    grid = grid_of(checkpoint, precision)
    rounded = replace(checkpoint, weights=grid, config=grid.config)
    floats = export_onnx(rounded, tmp_path / "floats", Precision.choose("f32"))
    got = RuntimeSequence(CpuRuntime(floats, threads=1)).feed(TOKENS, every_row=True).logits()
    expected = run_plain(export_onnx(checkpoint, tmp_path / "plain", precision, plain=True))
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    exact = export_onnx(checkpoint, tmp_path / "exact", Precision.choose("f32"))
    assert (
        np.abs(
            RuntimeSequence(CpuRuntime(exact, threads=1)).feed(TOKENS, every_row=True).logits() - expected
        ).max()
        > 3e-4
    )


def run_plain(bundle: Bundle) -> NDArray[np.float32]:
    """Logits [C, vocab] of TOKENS with an empty cache."""
    ort: Any = pytest.importorskip("onnxruntime")
    config = bundle.config
    feeds = {
        "input_ids": np.array([TOKENS], np.int64),
        "position_ids": np.arange(len(TOKENS), dtype=np.int64)[None],
        "logits_from": np.zeros(1, np.int64),
    }
    for layer in range(config.num_hidden_layers):
        for part in ("key", "value"):
            feeds[f"past_key_values.{layer}.{part}"] = np.zeros(
                (1, config.num_key_value_heads, 0, config.head_dim), np.float32
            )
    session = ort.InferenceSession(str(bundle.path(MODEL_FILE)), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], feeds)[0][0]
    return logits
