"""A toy model compiled for the chip, the same weights for the CPU, and a short talk with either."""

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from bmqwen.artifact.bundle import Bundle, read_bundle
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.emit.export import export_onnx
from bmqwen.engine import Engine
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.float16 import Half
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import Kind, tiny_config, write_checkpoint
from support.kept_nets import compile_net

CONTEXT = 96


@dataclass(frozen=True)
class CompiledModel:
    """A toy model three times.

    Attributes:
        checkpoint: its folder.
        bundle: compiled.
        cpu: an ONNX bundle in float32 that computes with the same grid.
    """

    checkpoint: Path
    bundle: Bundle
    cpu: Bundle


def compile_toy(
    toolchain: Toolchain,
    folder: Path,
    kind: Kind,
    form: Format,
    seed: int,
    *,
    half: Half = "f16",
    context: int = CONTEXT,
    sequences: int = 1,
    layers: int = 2,
    parts: int = 1,
    vocabulary: int = 320,
    name: str = "bundle",
) -> CompiledModel:
    """Make it in an empty folder, or beside the one that is there a bundle of another name, of the same weights."""
    config = tiny_config(kind, hidden_size=128, intermediate_size=256, layers=layers, vocab_size=vocabulary)
    precision = Precision.choose(form, 32)
    write_checkpoint(folder / "model", config, seed=seed)
    kept = patch("bmqwen.compiler.pipeline.compile_net", compile_net)
    with open_checkpoint(folder / "model") as checkpoint, kept:
        bundle = compile_model(
            checkpoint,
            folder / name,
            precision,
            seq_len=context,
            half=half,
            sequences=sequences,
            parts=parts,
            toolchain=toolchain,
        )
        grid = GridWeights(checkpoint.weights, checkpoint.config, precision)
        weights = {name: grid.read(name) for name in grid.names()}
    write_checkpoint(folder / "grid", grid.config, weights=weights)
    with open_checkpoint(folder / "grid") as checkpoint:
        cpu = export_onnx(checkpoint, folder / "cpu", Precision("f32", 32, "f32"))
    return CompiledModel(folder / "model", bundle, cpu)


def read_toy(folder: Path) -> CompiledModel:
    """What `compile_toy` made in a folder. Raises BundleError if that is not complete."""
    # The one for the CPU is made last.
    cpu = read_bundle(folder / "cpu")
    return CompiledModel(folder / "model", read_bundle(folder / "bundle"), cpu)


def two_turns(engine: Engine, length: int) -> list[Completion]:
    """Two greedy answers of so many tokens; closes the engine."""
    with engine:
        chat = engine.chat("s", SamplingParams(max_tokens=length))
        answers = []
        for question in ("hi", "and"):
            list(chat.stream(question))
            assert chat.last is not None
            answers.append(chat.last)
        return answers
