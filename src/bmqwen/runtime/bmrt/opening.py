"""Which runtime a bmodel bundle takes."""

from pathlib import Path

from bmqwen.bundle import Bundle
from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import find_libraries, load_libraries
from bmqwen.runtime.bmrt.published import LAYOUT, PublishedRuntime
from bmqwen.runtime.bmrt.step_runtime import StepRuntime


def open_bmodel(
    bundle: Bundle, *, folder: Path | None = None, index: int = 0, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel", whatever layout its nets have; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.details.get("layout") == LAYOUT else StepRuntime
    return kind(bundle, folder=folder, index=index, context_length=context_length)


def chip_answers() -> bool:
    """Whether this machine has a driver and a chip. Raises MissingDependencyError for libraries that do not load."""
    folder = find_libraries()
    return folder is not None and Device.count(load_libraries(folder)) > 0
