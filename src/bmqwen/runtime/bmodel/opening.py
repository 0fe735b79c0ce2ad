"""Which runtime a bmodel bundle takes."""

from bmqwen.artifact.bundle import Bundle
from bmqwen.runtime.bmodel.backend import BackendOpener
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StepRuntime


def open_bmodel(
    bundle: Bundle, open_backend: BackendOpener, *, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel", a published one or bmqwen's; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.is_published else StepRuntime
    return kind(bundle, open_backend, context_length=context_length)
