"""What is to be compiled: the nets of one model, and everything that decides their content."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.steps import StepShape, check_context, step_shapes
from bmqwen.compiler.sizes import Sizes, check_device_memory, sizes
from bmqwen.compiler.toolchain import WHEEL
from bmqwen.compiler.tpuc import Mode
from bmqwen.compiler.work_folder import NET, WEIGHTS
from bmqwen.emit.mlir import MlirOps
from bmqwen.emit.mlir_file import MlirFile, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.float16 import Half
from bmqwen.util.storage import storage_errors
from bmqwen.util.text import counted
from bmqwen.weights.checkpoint import Checkpoint

# Raised when the emitted nets or the rounding change, so that what was compiled before is made anew.
EMITTER = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """The nets of one bundle.

    Attributes:
        config: of the model, with the layers that are compiled.
        precision: formats of the weights.
        context: rows of the K/V cache.
        half: what the chip computes in.
        shapes: of the nets, the largest first.
        size: bytes to expect.
        key: fingerprint of the bundle's content.
    """

    config: ModelConfig
    precision: Precision
    context: int
    half: Half
    shapes: tuple[StepShape, ...]
    size: Sizes
    key: str

    def text(self, shape: StepShape) -> str:
        """Top-MLIR of one net. Raises InputError for a weight that its format cannot hold."""
        return self._emit(shape, None, None)

    def addresses(self, shape: StepShape) -> str:
        """Where one net's inputs and outputs lie, as the compiler reads it."""
        return AddressMap(self.config, self.shapes).text(shape, self.size.chip.weights)

    @property
    def mode(self) -> Mode:
        """What the compiler is told to compute in; weights on a grid keep it."""
        return "F16" if self.half == "f16" else "BF16"

    def write_weights(self, path: Path, blocks: WeightBlocks) -> None:
        """The file of weights that all nets share, streamed. Raises CheckpointError, StorageError."""
        beside = path.with_name(f".{path.name}.part")
        try:
            with storage_errors(path):
                with WeightFile(beside) as file:
                    self._emit(self.shapes[0], file, blocks)
                beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def _emit(self, shape: StepShape, weights: WeightFile | None, blocks: WeightBlocks | None) -> str:
        file = MlirFile(NET)
        ops = MlirOps(file, self.config, shape, self.context, self.precision, weights, blocks)
        self.config.network.emit(ops)
        return file.text(WEIGHTS)


def make_plan(
    checkpoint: Checkpoint, precision: Precision, context: int, half: Half, layers: int | None
) -> Plan:
    """Check the options and lay the nets out. Raises InputError for options that fit neither model nor chip."""
    return plan_model(
        checkpoint.config, checkpoint.name, checkpoint.identity(), precision, context, half, layers
    )


def plan_model(
    config: ModelConfig,
    name: str,
    identity: str,
    precision: Precision,
    context: int,
    half: Half,
    layers: int | None = None,
) -> Plan:
    """`make_plan` from a configuration alone; `identity` stands for the weights in the plan's key."""
    if "f32" in (precision.weights, precision.lm_head):
        raise InputError("the chip computes in half precision: choose f16, int8 or int4 in place of f32")
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise InputError(
                f"--layers {layers} cannot be compiled: {name} has "
                f"{counted(config.num_hidden_layers, 'layer')}"
            )
        config = replace(config, num_hidden_layers=layers)
    check_context(config, context)
    shapes = step_shapes(context)
    size = sizes(config, precision, context, shapes)
    check_device_memory(config, precision, context, size)
    parts = [
        *(identity, precision.to_dict(), context, half, config.num_hidden_layers),
        *([(s.tokens, s.history) for s in shapes], WHEEL.version, EMITTER),
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Plan(config, precision, context, half, shapes, size, key)
