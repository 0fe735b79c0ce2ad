"""From whatever MODEL names to a bundle on disk: download, conversion, and the cache of both."""

import re
from pathlib import Path

from filelock import FileLock

from bmqwen.bundle import Bundle, is_bundle, read_bundle
from bmqwen.cache import cache_folder
from bmqwen.checkpoint.checkpoint import Checkpoint, open_checkpoint
from bmqwen.checkpoint.hub import Hub
from bmqwen.errors import InputError
from bmqwen.network.export import export_onnx, source_key
from bmqwen.progress import Progress
from bmqwen.quant.precision import Precision
from bmqwen.storage import storage_errors


def convert(
    model: str | None,
    folder: Path,
    precision: Precision,
    *,
    plain: bool = False,
    replace: bool = False,
    offline: bool = False,
    progress: Progress,
) -> Bundle:
    """Export a model to a folder. Raises what `Hub.resolve` and `export_onnx` raise; a bundle as MODEL is an InputError."""
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if is_bundle(path):
        raise InputError(f"{path} is a bundle already: name the checkpoint that it was made from")
    with open_checkpoint(path) as checkpoint:
        return _export(checkpoint, folder, precision, plain=plain, replace=replace, progress=progress)


def bundle_of(
    model: str | None, precision: Precision, *, offline: bool = False, progress: Progress
) -> Bundle:
    """The bundle to run for MODEL: itself where it is one, else its conversion, made on first use and kept.

    Raises what `Hub.resolve`, `read_bundle` and `export_onnx` raise.
    """
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if is_bundle(path):
        return read_bundle(path)
    with open_checkpoint(path) as checkpoint:
        key = source_key(checkpoint, precision, plain=False)
        name = re.sub(r"[^\w.-]", "_", checkpoint.name)
        folder = cache_folder("bundles") / f"{name}-{precision.weights}-{key[:12]}"
        with storage_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        # A second process waits here and then finds the bundle made.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            return _export(checkpoint, folder, precision, plain=False, replace=True, progress=progress)


def _export(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    *,
    plain: bool,
    replace: bool,
    progress: Progress,
) -> Bundle:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        if not done:
            # Started late: where the bundle is there already, nothing is shown.
            progress.start(f"converting {checkpoint.name} to {precision} (once)", checkpoint.parameters)
        done += count
        progress.advance(done)

    return export_onnx(checkpoint, folder, precision, plain=plain, replace=replace, advance=advance)
