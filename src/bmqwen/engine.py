"""A loaded model, ready to talk: what the commands, the server and Python users hold."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import DeviceError, InputError
from bmqwen.generate.conversation import Conversation
from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.defaults import default_params
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.base import Runtime
from bmqwen.util.progress import Progress, Silent

EngineName = Literal["auto", "cpu", "sim", "tpu", "tpu:sail", "tpu:bmrt"]
# What opens a chip, where an engine's name says it.
LIBRARIES: Mapping[str, Literal["sail", "bmrt"]] = {"tpu:sail": "sail", "tpu:bmrt": "bmrt"}


class Engine:
    """A runtime with its tokenizer and chat template. Close it, or use it in a `with` statement.

    Attributes:
        bundle: what was loaded.
        runtime: what computes.
        tokenizer: the model's own.
        params: how it answers where nobody says otherwise, as its publisher recommends.
        session: the one KV cache, shared by all conversations of this engine: alternating between them is correct,
            but each then reads its history again, unless there is memory to save it in.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, *, saved_bytes: int = 0) -> None:
        """Take `runtime` over; `saved_bytes` of host memory are for conversations that others take the place of.

        Raises ConfigError for a tokenizer that cannot be used.
        """
        self.bundle = bundle
        self.runtime = runtime
        self.tokenizer = Tokenizer.from_folder(bundle.tokenizer_folder)
        self.params = params_of(bundle)
        saved = ConversationCache(saved_bytes) if saved_bytes else None
        self.session = Session(runtime, self.tokenizer, saved=saved)

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template, read on first use. Raises ConfigError if it has none that can be used."""
        return ChatTemplate.from_folder(self.bundle.tokenizer_folder)

    @property
    def model(self) -> str:
        """The model's name, for people."""
        return self.bundle.model

    @property
    def precision(self) -> str:
        """How the weights are stored, for people."""
        return precision_of(self.bundle)

    def chat(self, system: str | None = None, params: SamplingParams | None = None) -> Conversation:
        """Begin a conversation. Without `params` the model answers as its publisher recommends: sampled, mostly.

        Raises ConfigError without a chat template.
        """
        return Conversation(self.session, self.template, system=system, params=params or self.params)

    def close(self) -> None:
        """Free the runtime. May be called twice."""
        self.session.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def params_of(bundle: Bundle) -> SamplingParams:
    """Return how a model answers where nobody says otherwise.

    Raises ConfigError for a generation_config.json that cannot be used.
    """
    can_sample = bundle.details.get("logits") is not False
    return default_params(bundle.tokenizer_folder, bundle.config, can_sample=can_sample)


def precision_of(bundle: Bundle) -> str:
    """How a bundle's weights are stored, for people."""
    if not bundle.precision:
        return str(bundle.details.get("precision", "unknown precision"))
    return str(Precision(**bundle.precision))


def load(
    model: str | Path | None = None,
    engine: EngineName = "auto",
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    device: int = 0,
    saved_bytes: int = 0,
) -> Engine:
    """Load a model by whatever names it, downloading and converting it on first use.

    Args:
        model: short name, hub id, folder, GGUF file or bundle; None: the demo model.
        engine: "cpu", "sim" (the vendor's simulator), "tpu" (a chip, through SAIL where that is installed, else
            libbmrt; "tpu:sail" and "tpu:bmrt" say which), or "auto".
        precision: how to convert a checkpoint; None: 4 bit. A bundle keeps its own.
        threads: CPU threads; None: all cores.
        context_length: most tokens of a conversation; None: what the model offers.
        offline: use only what is on this machine.
        progress: is told how far downloads and conversion are.
        device: which chip, counted from 0.
        saved_bytes: host memory for the K/V of conversations that others take the place of.

    Raises:
        InputError: unknown model or engine, or a number out of range.
        CheckpointError, ConfigError, BundleError: the files cannot be used.
        DownloadError, StorageError, MissingDependencyError, DeviceError: as they say.
    """
    if engine not in get_args(EngineName):
        raise InputError(f"unknown engine {engine!r}: choose one of {', '.join(get_args(EngineName))}")
    bundle = resolve_bundle(
        None if model is None else str(model),
        precision or Precision(),
        offline=offline,
        progress=progress or Silent(),
        check=partial(_check_cpu_engine, engine),
    )
    with ExitStack() as undo:
        runtime = _open_runtime(bundle, engine, threads, context_length, device, progress or Silent())
        undo.callback(runtime.close)
        loaded = Engine(bundle, runtime, saved_bytes=saved_bytes)
        undo.pop_all()
    return loaded


def _open_runtime(
    bundle: Bundle,
    engine: EngineName,
    threads: int | None,
    context_length: int | None,
    device: int,
    progress: Progress,
) -> Runtime:
    """The runtime that an engine's name and a bundle's kind call for."""
    on_chip = bundle.kind == "bmodel" and (engine == "auto" or engine.startswith("tpu"))
    if device and not on_chip:
        raise InputError(f"there is no device {device} to choose: {bundle.place} does not run on a chip here")
    if bundle.kind == "onnx" and engine in ("auto", "cpu"):
        from bmqwen.runtime.cpu import CpuRuntime

        return CpuRuntime(bundle, threads=threads, context_length=context_length)
    if bundle.kind == "bmodel" and engine == "sim":
        # The simulator comes with the compiler; a chip needs neither.
        from bmqwen.compiler.toolchain import open_toolchain
        from bmqwen.runtime.bmrt.simulated import SimulatedRuntime

        folder = open_toolchain(report=progress.note).simulator_folder
        return SimulatedRuntime(bundle, folder, context_length=context_length)
    if on_chip:
        from bmqwen.runtime.tpu import chip_answers, open_on_chip

        if engine == "auto" and not chip_answers():
            raise DeviceError(
                f"{bundle.place} was compiled for a chip, and this machine has none: run it on one, or slowly on "
                "the vendor's simulator with --engine sim"
            )
        return open_on_chip(
            bundle,
            device=device,
            library=LIBRARIES.get(engine),
            context_length=context_length,
            note=progress.note,
        )
    raise _unfit(engine, bundle.kind)


def _check_cpu_engine(engine: EngineName) -> None:
    """Raise unless a checkpoint, which is converted for the CPU, can be run: before it is downloaded."""
    if engine not in ("auto", "cpu"):
        raise _unfit(engine, "onnx")
    from bmqwen.runtime.cpu import onnxruntime_package

    onnxruntime_package()


def _unfit(engine: EngineName, kind: str) -> InputError:
    fix = "name the model that it was made from" if engine == "cpu" else "compile the model for it first"
    return InputError(f"the engine {engine} cannot run a bundle of the kind {kind}: {fix}")
