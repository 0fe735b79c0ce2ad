"""From a model's name, a checkpoint or a bundle to what it takes of a chip's memory."""

from functools import partial

from bmqwen.bundle import Bundle, is_bundle, read_bundle
from bmqwen.checkpoint.catalog import find, is_short
from bmqwen.checkpoint.checkpoint import open_checkpoint
from bmqwen.checkpoint.config import ModelConfig
from bmqwen.checkpoint.hub import Hub
from bmqwen.checkpoint.published_configs import published_config
from bmqwen.compiler.stages import check_context, step_shapes
from bmqwen.doctor.memory import Candidate
from bmqwen.errors import InputError
from bmqwen.footprint import Footprint, footprint, longest_context
from bmqwen.progress import Progress
from bmqwen.quant.precision import Precision

CONTEXT = 512


def find_candidate(
    model: str, precision: Precision, context: int | None, *, offline: bool, progress: Progress
) -> Candidate:
    """What is to be checked. A short name is not downloaded for it.

    Args:
        model: short name, hub id, folder, GGUF file or bundle.
        precision: of a model that is not compiled yet; a bundle keeps its own.
        context: rows of the K/V cache, likewise; None: 512.
        offline: use only what is on this machine.
        progress: told how far downloads are.

    Raises:
        InputError: unknown model, or a context that cannot be compiled.
        BundleError, CheckpointError, ConfigError, DownloadError: as they say.
    """
    if is_short(model):
        name = find(model).name
        config = published_config(name)
        if config is not None:
            return of_config(name, config, precision, context)
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if is_bundle(path):
        return of_bundle(read_bundle(path))
    if path.suffix == ".bmodel":
        raise InputError(f"{path} is a bmodel without a bundle: `bmqwen info` tells its memory")
    with open_checkpoint(path) as checkpoint:
        return of_config(checkpoint.name, checkpoint.config, precision, context)


def of_config(name: str, config: ModelConfig, precision: Precision, context: int | None) -> Candidate:
    """A model that is to be compiled. Raises InputError for a context that cannot be."""
    context = min(CONTEXT, config.max_position_embeddings) if context is None else context
    check_context(config, context)
    return Candidate(
        title=f"{name}, {precision}",
        context=context,
        footprint=footprint(config, precision, context, step_shapes(context)),
        longest=partial(longest_context, config, precision, step_shapes),
    )


def of_bundle(bundle: Bundle) -> Candidate:
    """A compiled model. Raises InputError for a bundle that is not for the chip."""
    if bundle.kind != "bmodel":
        raise InputError(f"{bundle.folder} was made for the CPU, it takes nothing of a chip's memory")
    return Candidate(
        title=f"{bundle.model}, {Precision(**bundle.precision)}",
        context=int(bundle.details.get("context", 0)),
        footprint=bundle_footprint(bundle),
    )


def bundle_footprint(bundle: Bundle) -> Footprint:
    """What its nets take, as measured when it was made; else one piece of the size that its manifest states."""
    stated = bundle.details.get("memory")
    if isinstance(stated, dict):
        try:
            return Footprint.from_dict(stated)
        except (KeyError, TypeError, ValueError):
            pass
    total = bundle.details.get("device_bytes")
    size = total if isinstance(total, int) else bundle.files[next(iter(bundle.files))].bytes
    return Footprint(size, 0, 0, 0, (size,))
