"""Which runtime a bmodel bundle takes."""

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.published_layout import LAYOUT
from bmqwen.runtime.bmodel.backend import BackendOpener
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StepRuntime


def open_bmodel(
    bundle: Bundle, open_backend: BackendOpener, *, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel", whatever layout its nets have; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.details.get("layout") == LAYOUT else StepRuntime
    return kind(bundle, open_backend, context_length=context_length)
