"""From a model's name, a checkpoint or a bundle to what it takes of a chip's memory."""

import math
from functools import partial
from pathlib import Path

from bmqwen.artifact.bmodel import BmodelDescription, StageDescription, read_description
from bmqwen.artifact.bundle import BMODEL_FILE, Bundle, is_bundle, read_bundle
from bmqwen.artifact.fit import MemoryRequest
from bmqwen.artifact.footprint import Footprint, footprint, longest_context
from bmqwen.artifact.published_layout import published_model
from bmqwen.errors import BundleError, InputError
from bmqwen.hub.catalog import find, is_short
from bmqwen.hub.hub import Hub
from bmqwen.hub.published_configs import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Progress
from bmqwen.weights.checkpoint import open_checkpoint

CONTEXT = 512


def find_candidate(
    model: str, precision: Precision, context: int | None, *, offline: bool, progress: Progress
) -> MemoryRequest:
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
        return of_bmodel(path)
    with open_checkpoint(path) as checkpoint:
        return of_config(checkpoint.name, checkpoint.config, precision, context)


def of_config(name: str, config: ModelConfig, precision: Precision, context: int | None) -> MemoryRequest:
    """A model that is to be compiled. Raises InputError for a context that cannot be."""
    # Which nets there would be is the compiler's business; for a bundle nothing of it is loaded.
    from bmqwen.compiler.stages import check_context, step_shapes

    context = min(CONTEXT, config.max_position_embeddings) if context is None else context
    check_context(config, context)
    return MemoryRequest(
        title=f"{name}, {precision}",
        context=context,
        footprint=footprint(config, precision, context, step_shapes(context)),
        longest=partial(longest_context, config, precision, step_shapes),
    )


def of_bundle(bundle: Bundle) -> MemoryRequest:
    """A compiled model. Raises InputError for a bundle that is not for the chip, BundleError for a damaged one."""
    if bundle.kind != "bmodel":
        raise InputError(f"{bundle.folder} was made for the CPU, it takes nothing of a chip's memory")
    return MemoryRequest(
        title=f"{bundle.model}, {Precision(**bundle.precision)}",
        context=int(bundle.details.get("context", 0)),
        footprint=bmodel_footprint(read_description(bundle.path(BMODEL_FILE))),
    )


def of_bmodel(path: Path) -> MemoryRequest:
    """A bmodel of any layout, with what keeps one that was not published from running. Raises BundleError for a
    damaged one."""
    said = read_description(path)
    problem = ""
    try:
        published_model(said)
    except BundleError as error:
        problem = str(error)
    first = [tensor.shape for net in said.nets.values() for s in net.stages for tensor in s.inputs[:1]]
    contexts = [shape[1] for shape in first if len(shape) > 1]
    return MemoryRequest(path.name, max(contexts, default=0), bmodel_footprint(said), problem=problem)


def bmodel_footprint(said: BmodelDescription) -> Footprint:
    """What a bmodel's nets take, by its own description."""
    stages = [stage for net in said.nets.values() for stage in net.stages]
    weights = sum({key: size for stage in stages for key, size in stage.weights.items()}.values())
    instructions = sum(stage.instruction_bytes for stage in stages)
    cache = sum(max(map(_cache_bytes, net.stages), default=0) for net in said.nets.values())
    rest = max(0, said.device_bytes - weights - instructions - cache)
    further = tuple(said.further_stages)
    return Footprint(weights, instructions, cache, rest, pieces=tuple(said.pieces), stages=further)


def _cache_bytes(stage: StageDescription) -> int:
    """K/V of the history that a stage reads, and of the tokens that it adds."""
    inputs = [t for t in stage.inputs if t.name.startswith("history_")]
    outputs = [t for t in stage.outputs if t.name.startswith(("k_cache", "v_cache"))]
    return sum(2 * math.prod(tensor.shape) for tensor in (*inputs, *(outputs if inputs else ())))
