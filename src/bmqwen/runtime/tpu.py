"""The chips of this machine: whether one answers, and a bundle opened on one by whichever library is there."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from bmqwen.artifact.bundle import Bundle, BundlePart
from bmqwen.artifact.steps import StepNets
from bmqwen.errors import MissingDependencyError
from bmqwen.runtime.base import Runtime
from bmqwen.runtime.bmodel.backend import BackendOpener
from bmqwen.runtime.bmodel.part_chain import ChainOpener, LocalPart
from bmqwen.runtime.bmodel.step_runtime import StepRuntime, open_bmodel
from bmqwen.runtime.bmrt import simulated
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import find_libraries, library_folders, load_libraries, load_simulator
from bmqwen.runtime.c_output import c_output_on_stderr
from bmqwen.runtime.device_check import check_heaps, require_device
from bmqwen.runtime.registry import Options
from bmqwen.runtime.sail.backend import SailBackend, available_devices
from bmqwen.runtime.sail.module import load_sail, sail_installed

Library = Literal["sail", "bmrt"]
# Of PCIe cards, and of a SoC.
DEVICE_FILES = ("bm-sophon[0-9]*", "bm-tpu[0-9]*")


def open_on_chip(bundle: Bundle, options: Options, library: Library | None = None) -> Runtime:
    """Load a bundle of the kind "bmodel" on a chip, or on the simulator where that takes a chip's place.

    The library is SAIL where that can be loaded, else libbmrt by ctypes, if none is named; `options.note` is told why
    an installed SAIL is passed over. Raises what `StepRuntime` does.
    """
    chosen, devices, context = (
        library or _best_library(options.note),
        options.chips(bundle),
        options.context_length,
    )
    parts = bundle.parts
    if not has_hardware():
        for device in devices:
            require_device(device, _count(chosen))
        module = __name__ if chosen == "sail" else simulated.__name__
        if len(parts) > 1:
            opener = f"{module}:{'open_sail_part' if chosen == 'sail' else 'open_part'}"
            return simulated.open_simulators(
                bundle, None, context_length=context, devices=devices, opener=opener
            )
        opener = f"{module}:{'open_sail' if chosen == 'sail' else 'open_target'}"
        return simulated.SimulatedRuntime(
            bundle, None, context_length=context, device=devices[0], opener=opener
        )
    openers: list[BackendOpener] = [
        partial(SailBackend, index=device) if chosen == "sail" else partial(BmrtBackend.open, index=device)
        for device in devices
    ]
    for part, device in zip(parts, devices, strict=True):
        check_heaps(part.bmodel, device)
    with c_output_on_stderr():
        if len(parts) == 1:
            return open_bmodel(bundle, openers[0], context_length=context)

        def opened(index: int, part: BundlePart, nets: StepNets) -> LocalPart:
            return LocalPart(openers[index](part.bmodel, part.device_bytes), nets, part.config)

        return StepRuntime(bundle, ChainOpener(opened), context_length=context)


def has_hardware() -> bool:
    """Whether a driver has made a device file. Where there is none, what answers as a chip is the simulator."""
    return any(True for pattern in DEVICE_FILES for _ in Path("/dev").glob(pattern))


def open_sail(
    bundle: Bundle, folder: Path | None, context_length: int | None, device: int
) -> simulated.Target:
    """Load the bundle through a SAIL that stands on the simulator, in that one's process.

    The simulator's libraries are in `folder`; None: the dynamic linker finds them.
    """
    for place in library_folders() if folder is None else [folder]:
        if load_simulator(place):
            break
    open_backend = partial(SailBackend, index=device)
    return simulated.Target(open_bmodel(bundle, open_backend, context_length=context_length))


def open_sail_part(part: BundlePart, nets: StepNets, folder: Path | None, device: int) -> LocalPart:
    """Load a part of a bundle as `open_sail` loads a whole one."""
    for place in library_folders() if folder is None else [folder]:
        if load_simulator(place):
            break
    return LocalPart(SailBackend(part.bmodel, part.device_bytes, index=device), nets, part.config)


def chip_answers() -> bool:
    """Whether this machine has a driver and a chip. Raises MissingDependencyError for libraries that do not load."""
    try:
        if sail_installed() and _count("sail"):
            return True
    except MissingDependencyError:
        # The other library may do.
        pass
    return find_libraries() is not None and _count("bmrt") > 0


def _count(library: Library) -> int:
    """Devices that a library finds. Raises MissingDependencyError if it cannot be loaded."""
    # SAIL prints on standard output that there is no driver.
    with c_output_on_stderr():
        return available_devices(load_sail()) if library == "sail" else Device.count(load_libraries())


def _best_library(note: Callable[[str], None]) -> Library:
    if not sail_installed():
        return "bmrt"
    try:
        load_sail()
    except MissingDependencyError as error:
        if find_libraries() is None:
            raise
        note(f"{error}; libbmrt is used instead")
        return "bmrt"
    return "sail"
