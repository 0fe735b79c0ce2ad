"""The chips of this machine: whether there is one, and a bundle opened on it."""

from functools import partial

from bmqwen.bundle import Bundle
from bmqwen.runtime.bmodel.opening import open_bmodel
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import find_libraries, load_libraries
from bmqwen.runtime.bmrt.session import Session


def open_on_chip(
    bundle: Bundle, *, device: int = 0, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel" on a chip; errors as `StepRuntime`."""
    return open_bmodel(bundle, partial(Session.open, index=device), context_length=context_length)


def chip_answers() -> bool:
    """Whether this machine has a driver and a chip. Raises MissingDependencyError for libraries that do not load."""
    folder = find_libraries()
    return folder is not None and Device.count(load_libraries(folder)) > 0
