"""What converting takes of memory does not grow with the model."""

import tracemalloc
from pathlib import Path
from typing import Literal

import pytest

from bmqwen.emit import weight_blocks
from bmqwen.emit.export import export_onnx
from bmqwen.quant.precision import Format, Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint, write_gguf

Stored = Literal["safetensors", "gguf"]
LAYER = 4 * (4 * 256 * 256 + 3 * 256 * 1024)


def peak(folder: Path, stored: Stored, form: Format, layers: int) -> int:
    """Most bytes that Python and numpy held while a model of so many layers was converted."""
    config = tiny_config("qwen1.5", layers=layers, hidden_size=256, intermediate_size=1024)
    path = folder / f"{layers}-layers.gguf"
    if stored == "gguf":
        write_gguf(path, config, dtype="F16")
    else:
        path = write_checkpoint(folder / f"{layers}-layers", config, shards=2, dtype="bfloat16")
    with open_checkpoint(path) as checkpoint:
        tracemalloc.start()
        try:
            export_onnx(checkpoint, folder / f"bundle-{layers}", Precision.choose(form, 64))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("stored", "form"),
    [
        ("safetensors", "int4"),
        ("gguf", "f32"),
        *(
            pytest.param(*both, marks=pytest.mark.thorough)
            for both in (("safetensors", "f32"), ("safetensors", "f16"), ("gguf", "f16"), ("gguf", "int4"))
        ),
    ],
)
def test_ten_layers_take_what_two_take(
    stored: Stored, form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small beside these layers as the real blocks are beside a real one.
    monkeypatch.setattr(weight_blocks, "BLOCK_ELEMENTS", 1 << 14)
    # What is imported counts once.
    peak(tmp_path, stored, form, 1)
    few, many = (peak(tmp_path, stored, form, layers) for layers in (2, 10))
    assert many - few < LAYER / 4
    assert many < 2 * LAYER
