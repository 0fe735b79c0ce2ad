"""The chips of this machine: whether one answers, and a bundle opened on one by whichever library is there."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from bmqwen.bundle import Bundle
from bmqwen.errors import MissingDependencyError
from bmqwen.runtime.bmodel.layer import LayerOpener
from bmqwen.runtime.bmodel.opening import open_bmodel
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import find_libraries, load_libraries
from bmqwen.runtime.bmrt.session import Session
from bmqwen.runtime.c_output import c_output_on_stderr
from bmqwen.runtime.device_check import check_heaps
from bmqwen.runtime.sail.module import load_sail, sail_installed
from bmqwen.runtime.sail.session import SailSession, available_devices

Library = Literal["sail", "bmrt"]


def open_on_chip(
    bundle: Bundle,
    *,
    device: int = 0,
    library: Library | None = None,
    context_length: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel" on a chip.

    Args:
        bundle: what to load.
        device: which chip, counted from 0.
        library: what opens it; None: SAIL where it can be loaded, else libbmrt by ctypes.
        context_length: most tokens to keep; None: what the nets were compiled for.
        note: is told why an installed SAIL is passed over.

    Raises:
        MissingDependencyError: the library is not there.
        BundleError, InputError, DeviceError: as `StepRuntime` does.
    """
    chosen = library or _best_library(note)
    opener: LayerOpener = (
        partial(SailSession, index=device) if chosen == "sail" else partial(Session.open, index=device)
    )
    check_heaps(bundle.bmodel, device)
    with c_output_on_stderr():
        return open_bmodel(bundle, opener, context_length=context_length)


def chip_answers() -> bool:
    """Whether this machine has a driver and a chip. Raises MissingDependencyError for libraries that do not load."""
    try:
        if sail_installed() and available_devices(load_sail()):
            return True
    except MissingDependencyError:
        # The other library may do.
        pass
    folder = find_libraries()
    return folder is not None and Device.count(load_libraries(folder)) > 0


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
