"""A toy bmodel in the layout of the vendor's published ones, written from their description."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bmqwen.artifact.bundle import Bundle, write_manifest
from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import AddressMode, Mode, Recipe, combine
from bmqwen.emit.mlir_file import MlirFile, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import Checkpoint
from published_nets import PLATFORM, PublishedOps
from support.kept_nets import compile_net

PRECISION = Precision("f16", 32, "f16")
WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class Variant:
    """What published bmodels differ in."""

    mode: Mode = "F16"
    address_mode: AddressMode = "io_alone"
    mask_input: bool = True
    fused_token: bool = False
    greedy_head: bool = True


def published_bundle(
    toolchain: Toolchain, checkpoint: Checkpoint, folder: Path, length: int, variant: Variant
) -> Bundle:
    """Compile the nets for prompts of `length` and make a bundle of them."""
    config = checkpoint.config
    prompt, step = StepShape(length, 0), StepShape(1, length)
    nets: dict[str, tuple[StepShape, Callable[[PublishedOps], None]]] = {
        "embedding": (prompt, PublishedOps.embedding),
        "embedding_cache": (step, PublishedOps.embedding),
        "lm_head": (step, lambda ops: ops.head(variant.fused_token)),
    }
    if variant.greedy_head:
        nets["greedy_head"] = (step, PublishedOps.greedy)
    for layer in range(config.num_hidden_layers):
        for name, shape in ((f"block_{layer}", prompt), (f"block_cache_{layer}", step)):
            nets[name] = (shape, lambda ops, layer=layer: ops.block(layer, variant.mask_input))  # type: ignore[misc]
    work = folder.with_name(f"{folder.name}.work")
    compiled = []
    for name, (shape, write) in nets.items():
        (work / name).mkdir(parents=True)
        mlir = work / name / f"{name}.mlir"
        file = MlirFile(name, PLATFORM)
        with WeightFile(work / name / WEIGHTS) as weights:
            blocks = WeightBlocks(checkpoint.weights)
            write(PublishedOps(file, config, shape, length, PRECISION, weights, blocks))
        mlir.write_text(file.text(WEIGHTS))
        recipe = Recipe(variant.mode, address_mode=variant.address_mode)
        compiled.append(compile_net(toolchain, mlir, recipe).bmodel)
    folder.mkdir()
    combine(toolchain, compiled, folder / "model.bmodel")
    for name, content in checkpoint.tokenizer_files().items():
        (folder / name).write_bytes(content)
    details = {"nets": "published", "chip": "BM1684X", "context": length, "logits": not variant.fused_token}
    return write_manifest(
        Bundle(folder, "bmodel", checkpoint.name, config, PRECISION.to_dict(), details, "published", "0")
    )
