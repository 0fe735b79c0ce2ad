"""What is to be compiled: the nets of one model, and everything that decides their content."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.division import divide, fewest_parts, part_text
from bmqwen.artifact.footprint import Footprint, fits, footprint, longest_context, weight_bytes
from bmqwen.artifact.steps import (
    MOST_SHARED,
    StepShape,
    check_context,
    check_sequences,
    check_states,
    step_shapes,
)
from bmqwen.chip.memory import Heap, largest_heaps
from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec
from bmqwen.compiler.toolchain import WHEEL
from bmqwen.compiler.tpuc import Mode
from bmqwen.compiler.work_folder import NET, WEIGHTS
from bmqwen.emit.mlir import MlirOps
from bmqwen.emit.mlir_file import MlirFile, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.precision import Precision
from bmqwen.util.float16 import Half
from bmqwen.util.storage import storage_errors
from bmqwen.util.text import counted, size_text
from bmqwen.weights.checkpoint import Checkpoint

# Raised when the emitted nets or the rounding change, so that what was compiled before is compiled again.
EMITTER = 6

# Side by side where nobody says otherwise, the first that there is memory for.
DEFAULT_SEQUENCES = (8, 4, 2)
# Peak of a compiler process in terms of the net's weights, and what it takes besides (measured).
COMPILER_FACTOR = {"grid": 3.3, "float": 4.6}
COMPILER_BASE = 300 << 20
# Files of one compilation under way, besides the shared weights, in terms of the weights.
SCRATCH_FACTOR = 3.2
BMODEL_FACTOR = 1.06


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a model that is to be compiled: on the chip, in the file of weights, in the table on the host.

    `floats` tells whether most weights are not on a grid, `values` how many there are in the nets.
    """

    chip: Footprint
    weight_file: int
    floats: bool
    table: int
    values: int

    @property
    def compiler(self) -> int:
        """Memory that one compiler process takes at most, about."""
        return int(COMPILER_FACTOR["float" if self.floats else "grid"] * self.chip.weights) + COMPILER_BASE

    @property
    def bundle(self) -> int:
        """Disk for the finished bundle, a little too much."""
        return int(self.chip.weights * BMODEL_FACTOR) + self.table + (64 << 20)

    def scratch(self, jobs: int) -> int:
        """Return the disk for `jobs` nets at a time: those under way, those finished, and what is joined, twice."""
        weights = self.chip.weights
        bmodel = int(weights * BMODEL_FACTOR)
        return self.weight_file + jobs * int(SCRATCH_FACTOR * weights) + (jobs + 1) * bmodel + (64 << 20)


@dataclass(frozen=True, slots=True)
class Plan:
    """The nets of one bundle.

    Attributes:
        config: of the model, with the layers that are compiled.
        context: tokens of a sequence.
        sequences: that share the K/V cache.
        drafts: whether there are nets that check drafted tokens.
        shapes: of the nets, the largest first.
        key: fingerprint of the bundle's content.
        parts: of the model, each for a chip of its own; of a plan for one of them, that one.
    """

    config: ModelConfig
    precision: Precision
    context: int
    sequences: int
    half: Half
    shapes: tuple[StepShape, ...]
    size: Sizes
    key: str
    chip: ChipSpec = DEFAULT_CHIP
    drafts: bool = True
    parts: tuple[ModelConfig, ...] = ()

    def of_parts(self) -> "list[Plan]":
        """Return a plan for each part: of the same nets, with the part's layers in them."""
        if len(self.parts) == 1:
            return [self]
        return [
            replace(
                self,
                config=part,
                size=sizes(part, self.precision, self.context, self.sequences, drafts=self.drafts),
                key=f"{self.key}, part {number}",
                parts=(part,),
            )
            for number, part in enumerate(self.parts, start=1)
        ]

    def text(self, shape: StepShape) -> str:
        """Return the Top-MLIR of one net. Raises InputError for a weight that its format cannot hold."""
        return self._emit(shape, None, None)

    def addresses(self, shape: StepShape) -> str:
        """Return where one net's inputs and outputs lie, as the compiler reads it."""
        places = AddressMap(self.config, self.shapes)
        return places.text(shape, self.size.chip.weights, self.chip.memory_start)

    @property
    def mode(self) -> Mode:
        """What the compiler is told to compute in; weights on a grid keep it."""
        return "F16" if self.half == "f16" else "BF16"

    def write_weights(self, path: Path, blocks: WeightBlocks) -> None:
        """Write the file of weights that all nets share, streamed. Raises CheckpointError, StorageError."""
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
        ops = MlirOps(file, self.config, shape, self.context, self.precision, weights, blocks, self.chip)
        if not shape.rows:
            ops.move()
        elif self.config.is_last:
            self.config.network.emit(ops)
        else:
            ops.hand_over(*self.config.network.emit_layers(ops))
        return file.text(WEIGHTS)


def make_plan(
    model: Checkpoint | tuple[str, ModelConfig],
    precision: Precision,
    context: int,
    half: Half,
    layers: int | None = None,
    chip: ChipSpec = DEFAULT_CHIP,
    *,
    sequences: int | None = None,
    drafts: bool = True,
    parts: int | None = 1,
) -> Plan:
    """Check the options and lay the nets out. Raises InputError for options that fit neither model nor chip.

    Args:
        model: a checkpoint, or where there are no weights a name and a configuration.
        context: tokens of a sequence.
        half: what the chip computes in.
        layers: only so many decoder layers; None: all.
        sequences: to be computed side by side; None: `default_sequences`.
        drafts: with nets that check drafted tokens.
        parts: for as many chips; None: as few as there is memory for.
    """
    name, config = model if isinstance(model, tuple) else (model.name, model.config)
    source = "" if isinstance(model, tuple) else model.identity
    if "f32" in (precision.weights, precision.lm_head):
        raise InputError("the chip computes in half precision: choose f16, int8 or int4 in place of f32")
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise InputError(
                f"--layers {layers} cannot be compiled: {name} has "
                f"{counted(config.num_hidden_layers, 'layer')}"
            )
        config = replace(config, num_hidden_layers=layers, layer_types=config.layer_types[:layers])
    check_states(name, config, sequences, parts, half)
    check_context(config, context)
    if config.state_layers:
        sequences, drafts, parts = 1, False, 1
    if config.headless:
        # Texts are read one after another, and nothing is written that could be guessed.
        sequences, drafts = sequences or 1, False
    if parts is None:
        heaps = largest_heaps(chip.board)
        parts = fewest_parts(config, precision, context, lambda need: fits(need, heaps), sequences or 1)
    divided = divide(config, precision, parts)
    if sequences is None:
        sequences = min(default_sequences(part, precision, context, chip) for part in divided)
    check_sequences(context, sequences, parts)
    shapes = step_shapes(context, sequences, drafts=drafts, states=bool(config.state_layers))
    for part in divided:
        check_device_memory(part, precision, context, chip, sequences)
    size = sizes(config, precision, context, sequences, drafts=drafts)
    content = [
        *(source, precision.to_dict(), context, half, config.num_hidden_layers),
        *([astuple(s) for s in shapes], WHEEL.version, EMITTER, *chip.key),
        *([part.layers.stop for part in divided] if parts > 1 else ()),
    ]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Plan(config, precision, context, sequences, half, shapes, size, key, chip, drafts, divided)


def default_sequences(
    config: ModelConfig, precision: Precision, context: int, chip: ChipSpec = DEFAULT_CHIP
) -> int:
    """Return how many sequences a bundle has room for where one has: of the usual box as delivered, or at its most."""
    board = chip.board
    for heaps in (largest_heaps(replace(board, most=board.now)), largest_heaps(board)):
        if not fits(footprint(config, precision, context), heaps):
            continue
        for sequences in DEFAULT_SEQUENCES:
            if context * sequences <= MOST_SHARED and fits(
                footprint(config, precision, context, sequences), heaps
            ):
                return sequences
    return 1


def sizes(
    config: ModelConfig, precision: Precision, context: int, sequences: int = 1, *, drafts: bool = True
) -> Sizes:
    """Return sizes from the configuration alone."""
    weight_file = total = 0
    tensors = config.network.shapes()
    chip = footprint(config, precision, context, sequences, drafts=drafts)
    for name in weight_bytes(config, precision):
        shape = tensors[name]
        values = math.prod(shape)
        total += values
        form = precision.of(name)
        grid = len(shape) == 2 and isinstance(form, GridFormat)
        weight_file += form.file_bytes(*shape) if grid else 4 * values
    return Sizes(
        chip=chip,
        weight_file=weight_file,
        floats=not isinstance(precision.layers, GridFormat),
        table=2 * config.vocab_size * config.hidden_size,
        values=total,
    )


def check_device_memory(
    config: ModelConfig,
    precision: Precision,
    context: int,
    chip: ChipSpec = DEFAULT_CHIP,
    sequences: int = 1,
) -> None:
    """Raise InputError if the model cannot fit on the largest chip."""
    need, heaps = footprint(config, precision, context, sequences), largest_heaps(chip.board)
    if fits(need, heaps):
        return
    longest = longest_context(config, precision, lambda other: fits(other, heaps))
    fix = f"choose --seq-len {longest} or less" if longest else "choose a smaller --quant"
    if longest and longest >= context:
        most = _most_sequences(config, precision, context, sequences, heaps)
        fix = f"choose --sequences {most} or less, or a shorter --seq-len"
    if not config.state_layers:
        fix += ", or divide the model among more chips with --parts"
    parts = (need.total, need.weights, need.cache, need.activations + need.instructions)
    needed, weights, cache, work = map(size_text, parts)
    total = size_text(sum(heap.total for heap in heaps))
    several = f" with --sequences {sequences}" if sequences > 1 else ""
    several += f" ({part_text(config)})" if part_text(config) else ""
    raise InputError(
        f"--seq-len {context}{several} needs {needed} of the chip's memory (weights {weights}, K/V cache {cache}, "
        f"rest {work}), but a {chip.name} has at most {total}, the largest piece of it "
        f"{size_text(heaps[0].total)}, which the weights have to fit into: {fix}"
    )


def _most_sequences(
    config: ModelConfig, precision: Precision, context: int, too_many: int, heaps: Sequence[Heap]
) -> int:
    """Return how many sequences fit, where one does and `too_many` do not."""
    counts = range(too_many - 1, 1, -1)
    return next((n for n in counts if fits(footprint(config, precision, context, n), heaps)), 1)
