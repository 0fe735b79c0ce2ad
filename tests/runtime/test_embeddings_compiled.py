"""An embedding model and a reranker compiled: on the simulator they give what the CPU does."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.footprint import bmodel_footprint, footprint
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.emit.export import export_onnx
from bmqwen.engine import load
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.kept_nets import compile_net
from support.retrieval_models import write_embedder, write_reranker

TEXTS = ("The capital of China is Beijing, and that of France is Paris.", "hello")


@pytest.mark.simulator
def test_an_embedder_on_the_simulator(simulator: Toolchain, tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "embedder", hidden_size=128)
    kept = patch("bmqwen.compiler.pipeline.compile_net", compile_net)
    with open_checkpoint(folder) as checkpoint, kept:
        bundle = compile_model(
            checkpoint, tmp_path / "bundle", Precision("f16", 32, "f16"), seq_len=96, toolchain=simulator
        )
        exact = export_onnx(checkpoint, tmp_path / "cpu", Precision("f32", 32, "f32"))
    assert bundle.config.headless
    assert bundle.details["sequences"] == 1
    measured = bmodel_footprint(read_description(bundle.bmodel))
    planned = footprint(bundle.config, Precision("f16", 32, "f16"), 96, drafts=False)
    assert measured.cache == planned.cache
    assert measured.weights == pytest.approx(planned.weights, rel=0.02)
    with (
        load(exact.folder, task="embedding", threads=1) as cpu,
        load(bundle.folder, "sim", task="embedding") as chip,
    ):
        for text in TEXTS:
            got, wanted = chip.embed(text), cpu.embed(text)
            assert got.shape == wanted.shape == (128,)
            # Half precision: the angle between both is below one degree.
            assert float(got @ wanted) > 0.9998
            np.testing.assert_allclose(np.linalg.norm(got), 1, atol=1e-5)


@pytest.mark.simulator
@pytest.mark.thorough
def test_a_reranker_on_the_simulator(simulator: Toolchain, tmp_path: Path) -> None:
    folder = write_reranker(tmp_path / "reranker")
    kept = patch("bmqwen.compiler.pipeline.compile_net", compile_net)
    with open_checkpoint(folder) as checkpoint, kept:
        bundle = compile_model(
            checkpoint,
            tmp_path / "bundle",
            Precision("f16", 32, "f16"),
            seq_len=512,
            drafts=False,
            sequences=1,
            toolchain=simulator,
        )
        exact = export_onnx(checkpoint, tmp_path / "cpu", Precision("f32", 32, "f32"))
    with (
        load(exact.folder, task="rerank", threads=1) as cpu,
        load(bundle.folder, "sim", task="rerank") as chip,
    ):
        for text in TEXTS:
            wanted = cpu.relevance("capital", text)
            # Logits in half precision.
            assert chip.relevance("capital", text) == pytest.approx(wanted, abs=3e-3)
