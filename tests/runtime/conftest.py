"""Toy models in the published layout, each compiled once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.emit.export import export_onnx
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint
from support.published_bmodel import Variant, published_bundle

PROMPT_LENGTH = 40


@pytest.fixture(scope="session")
def published(
    simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Variant], tuple[Bundle, Path]]:
    """Compiles a toy checkpoint in a variant of the published layout; also a folder of its float32 export."""
    folder = tmp_path_factory.mktemp("published")
    made: dict[Variant, Bundle] = {}

    def get(variant: Variant) -> tuple[Bundle, Path]:
        if not made:
            write_checkpoint(folder / "model", tiny_config(hidden_size=128, intermediate_size=256), seed=6)
            with open_checkpoint(folder / "model") as checkpoint:
                export_onnx(checkpoint, folder / "cpu", Precision("f32", 32, "f32"))
        if variant not in made:
            with open_checkpoint(folder / "model") as checkpoint:
                made[variant] = published_bundle(
                    simulator, checkpoint, folder / f"bundle{len(made)}", PROMPT_LENGTH, variant
                )
        return made[variant], folder / "cpu"

    return get
