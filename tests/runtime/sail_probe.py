"""Bundles opened through SAIL in the simulator's process: by the real module where there is one, else its stand-in."""

from pathlib import Path
from typing import Any

import sail_stand_in

from bmqwen.bundle import Bundle
from bmqwen.runtime.bmodel.opening import open_bmodel
from bmqwen.runtime.bmrt.simulated import Target
from bmqwen.runtime.sail.module import sail_installed
from bmqwen.runtime.sail.session import SailSession


class SailTarget(Target):
    """Knows what the stand-in counted."""

    def calls(self) -> dict[str, int]:
        """Calls so far, by name; none of the real module."""
        return dict(getattr(sail_stand_in.STATE, "calls", {}))


def _open(bundle: Bundle, folder: Path, context_length: int | None, **settings: Any) -> SailTarget:
    if not sail_installed():
        sail_stand_in.install(folder, **settings)
    return SailTarget(open_bmodel(bundle, SailSession, context_length=context_length))


def current(bundle: Bundle, folder: Path, context_length: int | None) -> SailTarget:
    """SAIL as it is today, on a PCIe card."""
    return _open(bundle, folder, context_length)


def on_soc(bundle: Bundle, folder: Path, context_length: int | None) -> SailTarget:
    """SAIL on a SoC, where the nets' own tensors are mapped into the host's memory; with the newest constructor."""
    return _open(bundle, folder, context_length, mapped=True, refuses=True)


def early(bundle: Bundle, folder: Path, context_length: int | None) -> SailTarget:
    """SAIL 3.9.0 of July 2024, which has no views."""
    return _open(bundle, folder, context_length, views=False)


def old(bundle: Bundle, folder: Path, context_length: int | None) -> SailTarget:
    """SAIL of before June 2024. There is no such real module to be found any more."""
    sail_stand_in.install(folder, named=True, views=False)
    return SailTarget(open_bmodel(bundle, SailSession, context_length=context_length))
