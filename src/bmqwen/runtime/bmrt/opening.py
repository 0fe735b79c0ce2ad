"""Which runtime a bmodel bundle takes."""

from pathlib import Path

from bmqwen.bundle import Bundle
from bmqwen.runtime.bmrt.published import LAYOUT, PublishedRuntime
from bmqwen.runtime.bmrt.step_runtime import StepRuntime


def open_bmodel(
    bundle: Bundle, *, folder: Path | None = None, index: int = 0, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel", whatever layout its nets have; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.details.get("layout") == LAYOUT else StepRuntime
    return kind(bundle, folder=folder, index=index, context_length=context_length)
