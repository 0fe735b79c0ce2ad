"""Which runtime a bmodel bundle takes."""

from bmqwen.bmodel.published import LAYOUT
from bmqwen.bundle import Bundle
from bmqwen.runtime.bmodel.layer import LayerOpener
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StepRuntime


def open_bmodel(
    bundle: Bundle, open_layer: LayerOpener, *, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle of the kind "bmodel", whatever layout its nets have; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.details.get("layout") == LAYOUT else StepRuntime
    return kind(bundle, open_layer, context_length=context_length)
