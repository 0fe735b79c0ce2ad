"""Why a device cannot be used, by this machine's files: in better words than the vendor's libraries have."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmqwen.artifact.bmodel import read_description
from bmqwen.chip import problems
from bmqwen.chip.machine import look, memory_holders
from bmqwen.chip.problems import Problem
from bmqwen.chip.system import System
from bmqwen.errors import DeviceError


def missing_device(index: int, count: int, system: System | None = None) -> Problem:
    """Why there is no device of that number, where the vendor's library finds `count`."""
    system = system or System()
    machine = look(system)
    if not machine.denied and not machine.chips and (machine.unclaimed or machine.kind == "soc"):
        return problems.NO_DRIVER
    return closed_device(index, system) or problems.no_device(index, count)


def closed_device(index: int, system: System | None = None) -> Problem | None:
    """Why a device cannot be opened; None where the machine's files tell nothing of it."""
    machine = look(system or System())
    if machine.denied:
        return problems.no_permission(machine.denied)
    chip = machine.chip(index)
    return problems.dead_chip(index) if chip is not None and chip.state == "Fault" else None


def require_device(index: int, count: int) -> None:
    """Raise DeviceError unless the `count` devices that the vendor's library finds include a number."""
    if not 0 <= index < count:
        raise DeviceError(str(missing_device(index, count)))


@contextmanager
def opening_device(index: int) -> Iterator[None]:
    """Give a DeviceError meanwhile in the words of `closed_device`, where that knows why."""
    try:
        yield
    except DeviceError as error:
        if problem := closed_device(index):
            raise DeviceError(str(problem)) from error
        raise


def require_memory(
    purpose: str, needed: int, free: int | None, index: int, device: str, system: System | None = None
) -> None:
    """Raise DeviceError unless the bytes that something needs are free, naming who has the memory.

    `free` is None where the device does not tell; `device` is its name in messages.
    """
    if free is None or needed <= free:
        return
    system = system or System()
    chip = look(system).chip(index)
    holders = memory_holders(system, chip) if chip else []
    raise DeviceError(str(problems.too_little_memory(purpose, needed, device, free, holders)))


def check_heaps(bmodel: Path, index: int, system: System | None = None) -> None:
    """Raise DeviceError for a bmodel that a device has no room for: a piece larger than the largest heap, or an old
    runtime that takes more than there is.

    Raises BundleError for a file that is no bmodel. Where nobody tells of the heaps, nothing is checked.
    """
    system = system or System()
    machine = look(system)
    chip = machine.chip(index)
    heaps = chip.heaps if chip else ()
    if not heaps:
        return
    largest = max(heaps, key=lambda heap: heap.total)
    said = read_description(bmodel)
    piece = max(said.pieces, default=0)
    if piece > largest.total:
        raise DeviceError(str(problems.larger_than_heap(bmodel.name, piece, largest.name, largest.total)))
    if machine.libsophon is None or machine.libsophon.shares_memory:
        return
    # Such a runtime ends the process where memory runs out.
    needed, free = said.device_bytes + sum(said.further_stages), sum(heap.free for heap in heaps)
    require_memory(bmodel.name, needed, free, index, f"device {index}", system)
