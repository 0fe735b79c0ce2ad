"""Which engines run which kind of bundle: a new runtime is one more entry, imported when it is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bmqwen.errors import DeviceError, InputError

if TYPE_CHECKING:
    from bmqwen.artifact.bundle import Bundle, Kind
    from bmqwen.runtime.base import Runtime
    from bmqwen.runtime.tpu import Library

EngineName = Literal["auto", "cpu", "sim", "tpu", "tpu:sail", "tpu:bmrt"]


@dataclass(frozen=True, slots=True)
class Options:
    """What an engine is opened with.

    Attributes:
        simulator_folder: finds, or fetches, the simulator's libraries.
        note: is told what happens meanwhile.
        threads: of the CPU; None: all cores.
        context_length: most tokens to keep; None: what the bundle offers.
        devices: the chips, counted from 0, of a bundle in parts as many as it has; one alone is the first of them.
        sequences: conversations at once, where the bundle leaves it open.
        reproducible: no answer depends on which others are computed beside it, where that is not so anyway.
    """

    simulator_folder: Callable[[], Path]
    note: Callable[[str], None] = lambda _: None
    threads: int | None = None
    context_length: int | None = None
    devices: tuple[int, ...] = (0,)
    sequences: int = 1
    reproducible: bool = False

    def chips(self, bundle: "Bundle") -> tuple[int, ...]:
        """Return the chip of each part of a bundle. Raises InputError for more or fewer than it has."""
        count, given = len(bundle.parts), self.devices
        if len(given) == 1:
            return tuple(range(given[0], given[0] + count))
        if len(given) != count:
            asked = ",".join(map(str, given))
            needs = "one chip, name one of them" if count == 1 else f"{count} chips, name as many"
            raise InputError(f"--device {asked}: {bundle.model} was compiled for {needs}")
        return given


Opener = Callable[["Bundle", Options], "Runtime"]


def open_runtime(bundle: "Bundle", engine: EngineName, options: Options) -> "Runtime":
    """Open the runtime that an engine's name and a bundle's kind call for.

    Raises InputError if the engine does not run such bundles, and what the runtime does.
    """
    opener = RUNTIMES[bundle.kind].get(engine)
    if opener is None:
        raise _unfit(engine, bundle.kind)
    return opener(bundle, options)


def check_checkpoint(engine: EngineName) -> None:
    """Raise unless a checkpoint, which is converted for the CPU, can be run: before it is downloaded."""
    if engine not in RUNTIMES["onnx"]:
        raise _unfit(engine, "onnx")
    from bmqwen.runtime.cpu import onnxruntime_package

    onnxruntime_package()


def _open_cpu(bundle: "Bundle", options: Options) -> "Runtime":
    from bmqwen.runtime.cpu import CpuRuntime

    _require_no_device(bundle, options)
    return CpuRuntime(
        bundle,
        threads=options.threads,
        context_length=options.context_length,
        sequences=options.sequences,
        reproducible=options.reproducible,
    )


def _open_simulator(bundle: "Bundle", options: Options) -> "Runtime":
    from bmqwen.runtime.bmrt.simulated import SimulatedRuntime, open_simulators

    _require_no_device(bundle, options)
    kind = SimulatedRuntime if len(bundle.parts) == 1 else open_simulators
    return kind(bundle, options.simulator_folder(), context_length=options.context_length)


def _open_chip(bundle: "Bundle", options: Options, library: "Library | None" = None) -> "Runtime":
    from bmqwen.runtime.tpu import open_on_chip

    return open_on_chip(bundle, options, library)


def _open_chip_if_any(bundle: "Bundle", options: Options) -> "Runtime":
    from bmqwen.runtime.tpu import chip_answers

    if not chip_answers():
        raise DeviceError(
            f"{bundle.place} was compiled for a chip, and this machine has none: run it on one, or slowly on "
            "the vendor's simulator with --engine sim"
        )
    return _open_chip(bundle, options)


RUNTIMES: "Mapping[Kind, Mapping[EngineName, Opener]]" = {
    "onnx": {"auto": _open_cpu, "cpu": _open_cpu},
    "bmodel": {
        "auto": _open_chip_if_any,
        "sim": _open_simulator,
        "tpu": _open_chip,
        "tpu:sail": partial(_open_chip, library="sail"),
        "tpu:bmrt": partial(_open_chip, library="bmrt"),
    },
}


def _require_no_device(bundle: "Bundle", options: Options) -> None:
    if options.devices != (0,):
        raise InputError(
            f"there is no device {options.devices[-1]} to choose: {bundle.model} does not run on a chip here"
        )


def _unfit(engine: EngineName, kind: str) -> InputError:
    if kind == "onnx":
        return InputError(
            f"the engine {engine} runs compiled models only: `bmqwen compile` it, then name the bundle"
        )
    return InputError(
        f"the engine {engine} cannot run a compiled model: name the model that it was made from"
    )
