"""A model at some precision beside its float model, both on the CPU: what an evaluation compares."""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bmqwen.artifact.bundle import Bundle, is_bundle, read_bundle
from bmqwen.compiler.schedule import available_memory
from bmqwen.emit.export import NUMBERS, estimated_bytes, export_onnx
from bmqwen.errors import InputError
from bmqwen.evaluation.bundle_source import source_of
from bmqwen.evaluation.duration import reading_seconds
from bmqwen.generate.retrieval import check_task
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.hub import Hub
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import AnyPrecision, Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.base import Runtime
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.util.paths import cache_folder
from bmqwen.util.progress import Progress, Silent, counting
from bmqwen.util.storage import path_lock, storage_errors, sweep
from bmqwen.util.text import counted, duration_text, size_text
from bmqwen.weights.checkpoint import Checkpoint, open_checkpoint

Arithmetic = Literal["float", "int8"]
FLOAT = Precision.choose("f32")
_WORDS = {
    "float": "the weights' grid in float32 arithmetic, as on the chip save for its half-precision activations",
    "int8": "the CPU engine's own arithmetic, which rounds activations to int8 for int4 and int8 weights",
}


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Two open models with one tokenizer.

    Attributes:
        arithmetic: what the quantised products are computed in.
        model: the model at that precision.
        reference: the float model; None where it is not wanted.
        identity: changes with what the two compute.
    """

    name: str
    precision: Precision
    arithmetic: Arithmetic
    model: Runtime
    reference: Runtime | None
    reference_name: str
    tokenizer: Tokenizer
    identity: Sequence[object]

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "model": self.name,
            "precision": self.precision.to_dict(),
            "arithmetic": self.arithmetic,
            "float_model": self.reference_name if self.reference else None,
            "engine": self.model.name,
        }

    def __str__(self) -> str:
        beside = f" beside {self.reference_name} in float32" if self.reference else ""
        return f"{self.name}, {self.precision}{beside}\n{_WORDS[self.arithmetic]}; {self.model.name}"


@contextmanager
def open_pair(
    model: str | None,
    precision: AnyPrecision,
    *,
    against: str | None = None,
    arithmetic: Arithmetic = "float",
    alone: bool = False,
    threads: int | None = None,
    offline: bool = False,
    memory: int | None = None,
    tokens: int = 0,
    progress: Progress | None = None,
) -> Iterator[ModelPair]:
    """Open a model and its float model for the time of the body.

    The float32 export stays in the conversion cache; the one of the grid (as large) is removed at the end.

    Args:
        model: what `Hub.resolve` takes, or a bundle, which brings its own precision.
        precision: the one to evaluate, for a checkpoint.
        against: the float model: another checkpoint, or the one that a bundle was made from. None: the model itself;
            for a bundle, the downloaded model that it was made from.
        alone: without a float model: half the memory and time.
        memory: bytes that may be used; None: what this machine has free.
        tokens: about how many each model will read, for a note on how long that takes; 0: no note.

    Raises:
        InputError: models that do not belong together, or more memory needed than there is.
        BmqwenError: what `Hub.resolve`, `open_checkpoint`, `export_onnx` and `CpuRuntime` raise.
    """
    if arithmetic not in get_args(Arithmetic):
        raise InputError(f"unknown arithmetic {arithmetic!r}: choose float or int8")
    progress = progress or Silent()
    sweep(cache_folder("evaluate"), "*")
    with ExitStack() as stack:
        path = Hub(offline=offline or None).resolve(model, progress=progress)
        other = None if against is None else Hub(offline=offline or None).resolve(against, progress=progress)
        bundle = read_bundle(path) if is_bundle(path) else None
        if bundle is None:
            source = stack.enter_context(open_checkpoint(path))
            precision = precision.of_checkpoint(source)
        else:
            precision = Precision(**bundle.precision)
            source = stack.enter_context(source_of(bundle, other))
            other = None
            if bundle.config != source.config:
                raise InputError(
                    f"{bundle.folder} holds only a part of {source.name}, which predicts nothing"
                )
        check_task(source.config, source.name, "chat")
        reference = source if other is None else stack.enter_context(open_checkpoint(other))
        if reference.config.vocab_size != source.config.vocab_size:
            raise InputError(
                f"{reference.name} has a vocabulary of {reference.config.vocab_size:,} and {source.name} one of "
                f"{source.config.vocab_size:,}: only models with the same tokenizer can be compared"
            )
        grid = arithmetic == "float" and precision != FLOAT
        needed = estimated_bytes(source, FLOAT if grid else precision)
        needed += 0 if alone else estimated_bytes(reference, FLOAT)
        _require_memory(source.name, needed, memory, progress)
        if tokens:
            parameters = source.parameters + (0 if alone else reference.parameters)
            seconds = reading_seconds(parameters, tokens, threads)
            models = counted(1 if alone else 2, "model")
            progress.note(
                f"reading about {tokens:,} tokens with {models} will take about {duration_text(seconds)} on this "
                "machine, after the conversion; interrupt it when you like: the same command goes on where it was"
            )

        def run(bundle: Bundle) -> Runtime:
            return stack.enter_context(closing(CpuRuntime(bundle, threads=threads)))

        def convert(checkpoint: Checkpoint, form: Precision) -> Bundle:
            place, adapter = str(checkpoint.path.absolute()), checkpoint.adapter
            return resolve_bundle(place, form, adapter=adapter, offline=True, progress=progress)

        beside = None if alone else run(convert(reference, FLOAT))
        if grid:
            made = _export_grid(source, precision, stack.enter_context(_scratch()), progress)
        else:
            runs = bundle is not None and bundle.kind == "onnx" and bundle.details.get("dialect") != "plain"
            made = bundle if bundle is not None and runs else convert(source, precision)
        yield ModelPair(
            name=source.name if bundle is None else bundle.folder.resolve().name,
            precision=precision,
            arithmetic=arithmetic,
            model=run(made),
            reference=beside,
            reference_name=reference.name,
            tokenizer=Tokenizer.from_folder(made.folder),
            identity=[
                source.identity,
                reference.identity,
                precision.to_dict(),
                arithmetic,
                NUMBERS,
            ],
        )


def _export_grid(source: Checkpoint, precision: Precision, folder: Path, progress: Progress) -> Bundle:
    """Float32 export of the values that the grid of `precision` stands for."""
    weights = GridWeights(source.weights, source.config, precision)
    rounded = replace(source, weights=weights, config=weights.config)
    advance = counting(progress, f"rounding {source.name} to {precision}", rounded.parameters)
    return export_onnx(rounded, folder / "grid", FLOAT, advance=advance)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder in the cache, where there is room for models; it is gone afterwards."""
    folder = cache_folder("evaluate") / uuid.uuid4().hex[:8]
    with path_lock(folder):
        try:
            with storage_errors(folder):
                folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _require_memory(name: str, needed: int, free: int | None, progress: Progress) -> None:
    """Raise InputError unless the weights fit, which ONNX Runtime keeps in memory; say what is needed."""
    free = available_memory() if free is None else free
    if needed > free:
        raise InputError(
            f"evaluating {name} takes about {size_text(needed)} of memory, but only {size_text(free)} are free: "
            "use a smaller model, or leave the float model out with --alone"
        )
    progress.note(f"this takes about {size_text(needed)} of memory, and as much of the cache folder's disk")
