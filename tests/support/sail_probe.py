"""Bundles opened through SAIL in the simulator's process: by the real module where there is one, else its stand-in."""

import resource
from pathlib import Path
from typing import Any

import support.sail_stand_in as sail_stand_in
from bmqwen.artifact.bundle import Bundle, BundlePart
from bmqwen.artifact.steps import StepNets
from bmqwen.runtime.bmodel.part_chain import LocalPart
from bmqwen.runtime.bmrt.libraries import load_libraries
from bmqwen.runtime.bmrt.simulated import Target
from bmqwen.runtime.sail.module import sail_installed
from bmqwen.runtime.tpu import open_sail, open_sail_part
from support.sail_stand_in.state import STATE


class SailTarget(Target):
    """Knows what the stand-in counted."""

    def calls(self) -> dict[str, int]:
        """Calls so far, by name; none of the real module."""
        return dict(getattr(STATE, "calls", {}))


def _open(
    bundle: Bundle, folder: Path, context_length: int | None, device: int, **settings: Any
) -> SailTarget:
    if sail_installed():
        # Loaded already, they are what the real module is bound to, wherever the dynamic linker would look.
        load_libraries(folder)
    else:
        sail_stand_in.install(folder, **settings)
    return SailTarget(open_sail(bundle, folder, context_length, device)._runtime)


def current(bundle: Bundle, folder: Path, context_length: int | None, device: int) -> SailTarget:
    """SAIL as it is today, on a card with two chips."""
    return _open(bundle, folder, context_length, device, devices=2)


def on_soc(bundle: Bundle, folder: Path, context_length: int | None, device: int) -> SailTarget:
    """SAIL on a SoC, where the nets' own tensors are mapped into the host's memory, from a shell with few files."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    return _open(bundle, folder, context_length, device, mapped=True)


def middle(bundle: Bundle, folder: Path, context_length: int | None, device: int) -> SailTarget:
    """SAIL 3.9.4 of March 2025."""
    return _open(bundle, folder, context_length, device, version=(3, 9, 4))


def current_part(part: BundlePart, nets: StepNets, folder: Path, device: int) -> LocalPart:
    """A part of a bundle by `current`."""
    if sail_installed():
        load_libraries(folder)
    else:
        sail_stand_in.install(folder, devices=2)
    return open_sail_part(part, nets, folder, device)
