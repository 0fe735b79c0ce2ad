"""From what MODEL names to a bundle on disk: download, conversion, and the cache of both."""

import contextlib
import difflib
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bmqwen.artifact.bundle import MANIFEST, Bundle, is_bundle, read_bundle, reusable_bundle
from bmqwen.artifact.published import open_published, published_in
from bmqwen.errors import BundleError, InputError
from bmqwen.generate.retrieval import Task, check_task
from bmqwen.generate.template import require_template
from bmqwen.hub.catalog import existing_path, find
from bmqwen.hub.hub import Hub
from bmqwen.quant.precision import AnyPrecision, Precision
from bmqwen.util.kept_work import kept_work
from bmqwen.util.paths import cache_folder, model_name
from bmqwen.util.progress import Progress, counting
from bmqwen.util.storage import new_folder, path_lock, require_free, storage_errors, sweep
from bmqwen.weights.checkpoint import Checkpoint, checkpoint_path, full_name, open_checkpoint


def export_model(
    model: str | None,
    folder: Path,
    precision: AnyPrecision,
    *,
    plain: bool = False,
    replace: bool = False,
    adapter: Path | None = None,
    offline: bool = False,
    progress: Progress,
) -> Bundle:
    """Export a model to a folder. Raises what `open_model` and `export_onnx` raise."""
    from bmqwen.emit.export import export_onnx, source_key

    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if not plain and not is_bundle(path):
        precision = precision.at(path)
        key = source_key(path, precision, plain=False, adapter=adapter)
        made = reusable_bundle(_conversion(path, adapter, precision, key), key, replace=True)
        if made is not None and reusable_bundle(folder, key, replace=replace) is None:
            progress.note(f"copying the conversion that is in the cache, {made.folder}")
            require_free(folder.parent, made.total_bytes, f"a copy of {made.model}")
            with new_folder(folder, replace=replace) as part:
                for name in (MANIFEST, *made.files):
                    shutil.copyfile(made.folder / name, part / name)
            return read_bundle(folder)
    with open_model(model, adapter=adapter, offline=offline, progress=progress) as checkpoint:
        precise = precision.of_checkpoint(checkpoint)
        label = f"converting {checkpoint.name} to {precise}"
        advance = counting(progress, label, checkpoint.parameters)
        return export_onnx(checkpoint, folder, precise, plain=plain, replace=replace, advance=advance)


def open_model(
    model: str | None, *, adapter: Path | None = None, offline: bool, progress: Progress
) -> Checkpoint:
    """Open the checkpoint that MODEL names, with a LoRA adapter merged in or not; `progress` is told how it is read.

    Raises what `Hub.resolve` and `open_checkpoint` raise, and InputError for a bundle.
    """
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if is_bundle(path):
        raise InputError(f"{path} is a bundle already: name the checkpoint that it was made from")
    checkpoint = open_checkpoint(path, adapter)
    if checkpoint.note:
        progress.note(checkpoint.note)
    return checkpoint


def resolve_bundle(
    model: str | None,
    precision: AnyPrecision,
    *,
    adapter: Path | None = None,
    offline: bool = False,
    progress: Progress,
    chats: bool = False,
    task: Task | None = None,
    check: Callable[[], None] = lambda: None,
) -> Bundle:
    """Return the bundle to run for MODEL: itself where it is one or a published bmodel, else its conversion, made on
    first use and kept.

    Args:
        model: as users name it.
        precision: of a conversion.
        adapter: folder of a LoRA adapter to merge in on conversion.
        offline: use only what is on this machine.
        progress: told how far downloads and conversion are.
        chats: refuse a model without a chat template before it is converted.
        task: refuse a model that is for something else; None: take any.
        check: called before a checkpoint is downloaded or converted; raises where it could not be run.

    Raises what `Hub.resolve`, `read_bundle`, `open_checkpoint`, `export_onnx` and `check` raise, and InputError for an
    adapter of what is converted already.
    """

    def fitting(bundle: Bundle) -> Bundle:
        if task is not None:
            check_task(bundle.config, bundle.model, task)
        return bundle

    if _is_known_checkpoint(model):
        check()
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    published = path if path.suffix == ".bmodel" else None if is_bundle(path) else published_in(path)
    if adapter is not None and (published or is_bundle(path)):
        raise InputError(
            f"{path} is converted already, and an adapter is merged before that: name the model that it was made from"
        )
    if is_bundle(path):
        return fitting(read_bundle(path))
    if published:
        return open_published(published, _downloaded)
    check()
    # A device runs bundles and never exports one.
    from bmqwen.emit.export import export_onnx, source_key

    precision = precision.at(path)
    key = source_key(path, precision, plain=False, adapter=adapter)
    folder = _conversion(path, adapter, precision, key)
    if kept := reusable_bundle(folder, key, replace=True):
        return fitting(kept)
    with open_checkpoint(path, adapter) as checkpoint:
        if checkpoint.note:
            progress.note(checkpoint.note)
        label = f"converting {checkpoint.name} to {precision} (once)"
        advance = counting(progress, label, checkpoint.parameters)
        if task is not None:
            check_task(checkpoint.config, checkpoint.name, task)
        templated = partial(require_template, place=path) if chats else None
        # A second process waits here and then finds the bundle made.
        with path_lock(folder):
            # Of any model: nobody may ask for that one again.
            sweep(folder.parent, ".*.part")
            return export_onnx(checkpoint, folder, precision, replace=True, advance=advance, check=templated)


def _conversion(path: Path, adapter: Path | None, precision: Precision, key: str) -> Path:
    """Return where the cache keeps a checkpoint's conversion."""
    name = re.sub(r"[^\w.+-]", "_", full_name(checkpoint_path(path), adapter))
    return cache_folder("bundles") / f"{name}-{precision.weights}-{key[:12]}"


def _downloaded() -> list[Path]:
    """Folders of the models in the cache."""
    models = [model.path for model in Hub().models() if model.complete]
    return [path if path.is_dir() else path.parent for path in models]


def _is_known_checkpoint(model: str | None) -> bool:
    """Whether MODEL, before it is looked for, is known to be no file here, no bundle and no published bmodel."""
    if existing_path(model):
        return False
    with contextlib.suppress(InputError):
        return not (find(model or "demo").file or "").endswith(".bmodel")
    return False


def cached_bundles() -> list[Bundle]:
    """Return the bundles of the cache that can be read, by name."""
    folder = cache_folder("bundles")
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(BundleError):
            found.append(read_bundle(path))
    return found


def remove_model(name: str) -> int:
    """Delete a model with its conversions and kept work from the cache, or one of these by its folder's name.

    Returns:
        Bytes freed.

    Raises:
        InputError: nothing of that name is there, or it is in use.
    """
    hub, there, work = Hub(), cached_bundles(), kept_work()
    found = hub.named(name)
    names = {name, *(model_name(model.path) for _, model in found)}
    made = [bundle for bundle in there if bundle.folder.name == name or bundle.model in names]
    kept = [piece for piece in work if piece.folder.name == name or piece.model in names]
    if not found and not made and not kept:
        folders = [bundle.folder.name for bundle in there] + [piece.folder.name for piece in work]
        known = [*(model.name for model in hub.models()), *folders]
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "`bmqwen list` shows what is there"
        raise InputError(f"{name[:200]} is not in the cache: {hint}")
    for piece in kept:
        piece.remove()
    freed = hub.remove(name) if found else 0
    for bundle in made:
        with storage_errors(bundle.folder):
            shutil.rmtree(bundle.folder)
    return freed + sum(bundle.total_bytes for bundle in made) + sum(piece.bytes for piece in kept)
