"""The model that a command's options ask for, loaded with a progress bar."""

from typing import TYPE_CHECKING

from bmqwen.cli.interrupts import left_by_force
from bmqwen.cli.output import progress_bar
from bmqwen.runtime.registry import EngineName

if TYPE_CHECKING:
    from bmqwen.engine import Engine
    from bmqwen.quant.precision import Precision


def load_shown(
    model: str | None,
    engine: EngineName,
    precision: "Precision",
    *,
    device: int,
    threads: int | None,
    context: int | None,
    offline: bool,
) -> "Engine":
    """Load MODEL; download, conversion and loading are shown on stderr. Raises what `bmqwen.engine.load` raises."""
    from bmqwen.engine import load
    from bmqwen.generate.sandbox import SANDBOX

    SANDBOX.start()  # by the time the model is loaded, it is ready
    with left_by_force(), progress_bar() as bar:
        return load(
            model,
            engine,
            precision=precision,
            threads=threads,
            context_length=context,
            offline=offline,
            progress=bar,
            chats=True,
            device=device,
        )
