"""The arithmetic of a model's memory, against what the vendor's tool says of models that were really compiled."""

import re
from pathlib import Path

import pytest

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.footprint import bmodel_footprint, footprint
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import describe
from bmqwen.quant.precision import Format, Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    """The real compiler."""
    return open_toolchain()


@pytest.mark.parametrize(
    ("hidden", "inner", "heads", "vocabulary", "form", "context"),
    [
        (128, 256, 4, 320, "int4", 96),
        (128, 256, 4, 320, "int8", 96),
        # One layer as wide as Qwen1.5-1.8B's, with smaller heads.
        pytest.param(2048, 5504, 16, 8192, "int4", 128, marks=pytest.mark.thorough),
        pytest.param(2048, 5504, 16, 1024, "f16", 64, marks=pytest.mark.thorough),
    ],
)
def test_footprint_is_what_the_compiler_makes(
    hidden: int,
    inner: int,
    heads: int,
    vocabulary: int,
    form: Format,
    context: int,
    toolchain: Toolchain,
    tmp_path: Path,
) -> None:
    config = tiny_config(
        "qwen1.5",
        layers=2 if hidden == 128 else 1,
        hidden_size=hidden,
        intermediate_size=inner,
        heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=1024,
    )
    write_checkpoint(tmp_path / "model", config, seed=1, dtype="float16")
    precision = Precision.choose(form, 32 if hidden == 128 else 64, form)
    with open_checkpoint(tmp_path / "model") as checkpoint:
        bundle = compile_model(
            checkpoint, tmp_path / "bundle", precision, seq_len=context, sequences=1, toolchain=toolchain
        )
    bmodel = bundle.path("model.bmodel")
    said = re.search(r"device mem size: (\d+) \(weight: (\d+), instruct", describe(toolchain, bmodel))
    assert said is not None
    description = read_description(bmodel)
    read = bmodel_footprint(description)
    io_bytes = max(stage.io_bytes for stage in description.nets["step"].stages)
    expected = footprint(config, precision, context)
    # To the byte: weights, and inputs and outputs, which the tool does not count.
    assert expected.weights == int(said[2]) == read.weights
    assert expected.pieces[-1] == io_bytes
    # What a runtime that keeps the stages apart takes besides.
    assert expected.stages == read.stages
    assert expected.cache == pytest.approx(read.cache, rel=0.01)
    assert expected.total == pytest.approx(int(said[1]) + io_bytes, rel=0.03)
