"""A checkpoint becomes an ONNX bundle."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from bmqwen.artifact.bundle import Bundle, read_bundle, reusable_bundle, write_manifest
from bmqwen.emit.onnx_contrib import ContribOps
from bmqwen.emit.onnx_file import OnnxFile
from bmqwen.emit.onnx_plain import PlainOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.quant.precision import Precision
from bmqwen.util.storage import new_folder, require_free
from bmqwen.version import __version__
from bmqwen.weights.checkpoint import Checkpoint

MODEL_FILE = "model.onnx"
# Raised when the emitted graph or the rounding changes, so that cached conversions are made anew.
EMITTER = 2


def source_key(checkpoint: Checkpoint, precision: Precision, *, plain: bool) -> str:
    """Fingerprint of everything that decides the bundle's content."""
    parts = [checkpoint.identity(), precision.to_dict(), plain, EMITTER]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def estimated_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """About how large the bundle will be, in bytes; a little too high."""
    width = {
        "f32": 4.0,
        "f16": 2.0,
        "int8": 1 + 5 / precision.group_size,
        "int4": 0.5 + 5 / precision.group_size,
    }
    config = checkpoint.config
    table = config.vocab_size * config.hidden_size
    body = max(checkpoint.parameters - table * (1 if config.tie_word_embeddings else 2), 0)
    # The embedding table is in half precision, but beside a float32 head.
    ends = table * (width[precision.lm_head] + (4 if precision.lm_head == "f32" else 2))
    return int(1.05 * (body * width[precision.weights] + ends) + (64 << 20))


def export_onnx(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    *,
    plain: bool = False,
    replace: bool = False,
    advance: Callable[[int], None] = lambda _count: None,
) -> Bundle:
    """Write the ONNX bundle of a checkpoint. A bundle that is there already and up to date is left as it is.

    Memory stays near a few blocks of one matrix, whatever the model's size.

    Args:
        checkpoint: an open checkpoint.
        folder: the bundle's folder; it appears when it is complete.
        precision: formats of the weights.
        plain: standard ONNX operations only, for other tools.
        replace: an existing folder of another content is replaced, if it is a bundle.
        advance: called with numbers of parameters as they are converted; they sum up to `checkpoint.parameters`,
            plus the table's once more where it is the head as well.

    Raises:
        InputError: `folder` exists and is not the same bundle.
        CheckpointError: the checkpoint is damaged.
        StorageError: not enough room, or a place that cannot be written.
    """
    key = source_key(checkpoint, precision, plain=plain)
    existing = reusable_bundle(folder, key, replace=replace)
    if existing is not None:
        return existing
    # Read before the long work: a checkpoint without a tokenizer should fail at once.
    tokenizer = checkpoint.tokenizer_files()
    require_free(folder.parent, estimated_bytes(checkpoint, precision), f"converting {checkpoint.name}")
    try:
        with new_folder(folder, replace=replace) as part:
            _write_graph(checkpoint, part, precision, plain=plain, advance=advance)
            for name, content in tokenizer.items():
                (part / name).write_bytes(content)
            write_manifest(
                Bundle(
                    folder=part,
                    kind="onnx",
                    model=checkpoint.name,
                    config=checkpoint.config,
                    precision=precision.to_dict(),
                    details={"dialect": "plain" if plain else "onnxruntime"},
                    source=key,
                    made_by=__version__,
                )
            )
    except InputError:
        # Another process may have put the same there meanwhile.
        if (made := reusable_bundle(folder, key, replace=replace)) is None:
            raise
        return made
    return read_bundle(folder)


def _write_graph(
    checkpoint: Checkpoint,
    part: Path,
    precision: Precision,
    *,
    plain: bool,
    advance: Callable[[int], None],
) -> None:
    """The graph with its external weights, in the folder `part`."""
    file = OnnxFile(part / MODEL_FILE, opset=21, contrib=not plain)
    try:
        blocks = WeightBlocks(checkpoint.weights, advance)
        config = checkpoint.config
        if plain:
            config.network.emit(PlainOps(file, config, blocks, precision))
        else:
            config.network.emit(ContribOps(file, config, blocks, precision))
        file.save(__version__)
    finally:
        file.close()
