"""A checkpoint becomes an ONNX bundle."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from bmqwen.artifact.bundle import (
    BESIDE_FILE,
    MODEL_FILE,
    Bundle,
    read_bundle,
    reusable_bundle,
    write_manifest,
)
from bmqwen.emit.onnx_beside import BesideGraph
from bmqwen.emit.onnx_contrib import ContribOps
from bmqwen.emit.onnx_file import OnnxFile
from bmqwen.emit.onnx_plain import PlainOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.quant.precision import Precision, rounding_of
from bmqwen.util.storage import new_folder, require_free
from bmqwen.version import __version__
from bmqwen.weights.checkpoint import Checkpoint, identity

# Raised when the emitted graph, the rounding or a configuration changes, so that cached conversions are made again; the
# second one only if the numbers that it computes change, with which evaluations were kept.
EMITTER, NUMBERS = 6, 4


def source_key(path: Path, precision: Precision, *, plain: bool, adapter: Path | None = None) -> str:
    """Return a fingerprint of everything that decides the content of the bundle of a checkpoint.

    Raises what `identity` raises.
    """
    parts = [identity(path, adapter), precision.to_dict(), plain, EMITTER]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def estimated_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Estimate how large the bundle will be, in bytes; a little too high."""
    config = checkpoint.config
    matrices = {name: shape for name, shape in config.network.shapes().items() if len(shape) == 2}
    table = matrices.pop("model.embed_tokens.weight")
    if not config.headless:
        # A tied head is stored beside the table.
        matrices["lm_head.weight"] = table
    stored = precision.table.file_bytes(*table)
    stored += sum(precision.of(name).file_bytes(*shape) for name, shape in matrices.items())
    return int(1.05 * stored + (64 << 20))


def export_onnx(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    *,
    plain: bool = False,
    replace: bool = False,
    advance: Callable[[int], None] = lambda _count: None,
    check: Callable[[dict[str, bytes]], None] | None = None,
) -> Bundle:
    """Write the ONNX bundle of a checkpoint. A bundle that is there already and up to date is left as it is.

    It holds a few blocks of one matrix in memory, not the model.

    Args:
        checkpoint: an open checkpoint.
        folder: the bundle's folder; it appears when it is complete.
        precision: formats of the weights.
        plain: standard ONNX operations only, for other tools.
        replace: an existing folder of another content is replaced, if it is a bundle.
        advance: called with numbers of parameters as they are converted; they sum up to `checkpoint.parameters`,
            plus the table's once more where it is the head as well.
        check: called with the tokenizer's files before the long work; raises where they will not do.

    Raises:
        InputError: `folder` exists and is not the same bundle.
        CheckpointError: the checkpoint is damaged.
        StorageError: not enough room, or a place that cannot be written.
    """
    adapter = checkpoint.adapter
    key = source_key(checkpoint.path, precision, plain=plain, adapter=adapter)
    existing = reusable_bundle(folder, key, replace=replace)
    if existing is not None:
        return existing
    # Read before the long work: a checkpoint without a tokenizer should fail early.
    tokenizer = checkpoint.tokenizer_files()
    if check:
        check(tokenizer)
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
                    details={
                        "dialect": "plain" if plain else "onnxruntime",
                        "rounding": rounding_of(checkpoint, precision),
                        **({"adapter": str(adapter.absolute())} if adapter else {}),
                    },
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
    # DequantizeLinear knows 4-bit types and blocks since opset 21.
    file = OnnxFile(part / MODEL_FILE, opset=21, contrib=not plain)
    try:
        blocks = WeightBlocks(checkpoint.weights, advance)
        config = checkpoint.config
        if plain:
            config.network.emit(PlainOps(file, config, blocks, precision))
        else:
            config.network.emit(ContribOps(file, config, blocks, precision))
        file.save(__version__)
        if not plain and not config.state_layers:
            file.save(__version__, BESIDE_FILE, BesideGraph(config).change)
    finally:
        file.close()
