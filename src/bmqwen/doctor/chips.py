"""Driver, libraries, devices and their memory: what a model on the chip needs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from bmqwen.chip.libraries import find_sail, number
from bmqwen.chip.machine import Chip, Machine, memory_holders
from bmqwen.chip.memory import DEBUG_FOLDER, Heap
from bmqwen.chip.problems import (
    INSTALL_SAIL,
    LEVELS,
    LIBSOPHON_NEEDED,
    NO_DRIVER,
    NO_LIBRARIES,
    SAIL_NEEDED,
    Finding,
    dead_chip,
    no_device,
    no_permission,
    old_libsophon,
    old_sail,
    sail_of_other_python,
    separate_memory,
)
from bmqwen.chip.spec import SPECS
from bmqwen.chip.system import System
from bmqwen.doctor.probe import Answer, Probe
from bmqwen.util.text import size_text

AREA = "chip"
_ok, _warning, _error = (partial(Finding, AREA, level) for level in LEVELS)


def check_chips(
    system: System, machine: Machine, device: int | None, python: tuple[int, ...]
) -> Iterator[Finding]:
    """Tell what is there and what is wrong, for one device or all; each chip was asked already (`with_answers`)."""
    if machine.kind == "none" and machine.libsophon is None:
        text = "no chip: no card on the PCIe bus, no SoC, no driver"
        if device is None:
            yield _ok(f"{text}; models run on the CPU")
        else:
            yield _error(
                f"there is no device {device}: {text}",
                "`lspci -d 1f1c:` lists a card that is plugged in and has power; without one leave out --device: "
                "models run on the CPU",
            )
        return
    yield from _driver(machine)
    yield from _libraries(machine)
    if machine.denied:
        yield Finding.of(AREA, no_permission(machine.denied))
    indices = [chip.index for chip in machine.chips]
    # Where no chip is found at all, the driver is what matters.
    if indices and device is not None and device not in indices:
        yield Finding.of(AREA, no_device(device, len(indices)))
    for chip in machine.chips:
        if device in (None, chip.index):
            yield from _chip(system, machine, chip)
    yield _sail(system, python)


def with_answers(machine: Machine, probe: Probe) -> Machine:
    """Ask every chip that can be asked, and return the machine with how much of their heaps is used."""
    if machine.libsophon is None or machine.denied:
        return machine
    chips = (chip if chip.state == "Fault" else _completed(chip, probe(chip.index)) for chip in machine.chips)
    return replace(machine, chips=tuple(chips))


def _completed(chip: Chip, answer: Answer) -> Chip:
    if answer.failure:
        chip = replace(chip, state="Fault")
    stated = [Heap("", total, total - free) for total, free in answer.heaps]
    if not stated or (chip.heaps and all(heap.used is not None for heap in chip.heaps)):
        return chip
    # The library's heaps come in the driver's order, which is that of the files.
    names = [heap.name for heap in chip.heaps] + [f"heap{i}" for i in range(len(chip.heaps), len(stated))]
    return replace(chip, heaps=tuple(replace(h, name=n) for h, n in zip(stated, names, strict=False)))


def _driver(machine: Machine) -> Iterator[Finding]:
    if not machine.chips:
        found = "this is a SoC" if machine.kind == "soc" else "libsophon is installed"
        if machine.kind != "soc" and machine.unclaimed:
            found = f"{', '.join(machine.unclaimed)} on the PCIe bus"
        yield _error(f"{found}, but {NO_DRIVER.cause}", NO_DRIVER.fix)
        return
    where = "SoC" if machine.kind == "soc" else f"PCIe host with {len(machine.chips)} chips"
    version = f", driver {machine.driver}" if machine.driver else ""
    yield _ok(f"{where}{version}")


def _libraries(machine: Machine) -> Iterator[Finding]:
    if machine.libsophon is None:
        yield Finding.of(AREA, NO_LIBRARIES)
        return
    version, driver = machine.libsophon.version, machine.driver
    built = f", libbmrt of {machine.libsophon.built}" if machine.libsophon.built else ""
    if 0 < number(version) < number(LIBSOPHON_NEEDED):
        yield Finding.of(AREA, old_libsophon(version))
        return
    if driver and number(version) and number(version) != number(driver):
        yield _warning(
            f"libsophon {version} and driver {driver} are of different SDKs",
            "install sophon-driver and sophon-libsophon of one SDK with `sudo dpkg -i sophon-*.deb`, then "
            "`sudo modprobe -r bmsophon && sudo modprobe bmsophon`",
        )
    else:
        yield _ok(f"libsophon {version}{built}")
    if not machine.libsophon.shares_memory:
        yield Finding.of(AREA, separate_memory(machine.libsophon.version, machine.kind), "warning")


def _chip(system: System, machine: Machine, chip: Chip) -> Iterator[Finding]:
    place = ", ".join(part for part in (chip.board, chip.bus) if part)
    text = f"device {chip.index}: {chip.name}{f' ({place})' if place else ''}"
    if chip.state == "Fault":
        yield Finding.of(AREA, dead_chip(chip.index))
        return
    if chip.name not in SPECS:
        yield _error(f"{text}: bundles are for {' or '.join(SPECS)}", "choose another device with --device")
        return
    yield _ok(f"{text}{f', {chip.state}' if chip.state else ''}")
    if not chip.heaps:
        yield _warning(f"device {chip.index} does not tell its memory", "`bmqwen doctor` as root may")
        return
    yield _ok(f"device {chip.index} memory: {memory_text(chip.heaps)}")
    if machine.kind == "soc" and any(heap.used is None for heap in chip.heaps):
        yield _warning(
            f"how much of it is used is in {DEBUG_FOLDER}, which only root may read",
            "`sudo .venv/bin/bmqwen doctor` shows it",
        )
    if holders := memory_holders(system, chip):
        yield _warning(f"{' and '.join(holders)} use device {chip.index}")


def memory_text(heaps: Sequence[Heap]) -> str:
    """Return "npu 4,142 MB (13 MB used), vpp 3,221 MB (0 MB used); 7,363 MB in all"."""
    parts = [
        f"{heap.name} {size_text(heap.total, 'MB')}"
        + ("" if heap.used is None else f" ({size_text(heap.used, 'MB')} used)")
        for heap in heaps
    ]
    return f"{', '.join(parts)}; {size_text(sum(heap.total for heap in heaps), 'MB')} in all"


def _sail(system: System, python: tuple[int, ...]) -> Finding:
    package = find_sail(system)
    if package is None:
        return _ok("SAIL: not installed, bmqwen calls libbmrt itself", f"to have it: `{INSTALL_SAIL}`")
    problem = None
    if number(package.version) < number(SAIL_NEEDED):
        problem = old_sail(package.version)
    elif not package.fits(python):
        problem = sail_of_other_python(package.version, python)
    if problem is not None:
        return _warning(f"{problem.cause}; bmqwen calls libbmrt itself", problem.fix)
    return _ok(f"SAIL {package.version}")
