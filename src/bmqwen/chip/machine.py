"""The chips of this machine, as the driver's files tell of them."""

import re
from dataclasses import dataclass
from typing import Literal

from bmqwen.chip.libraries import Libsophon, find_libsophon
from bmqwen.chip.memory import DEVICE_TREE, Heap, card_heaps, soc_heaps
from bmqwen.chip.spec import CHIP_NAMES, DEFAULT_CHIP
from bmqwen.chip.system import System

PROC = "/proc/bmsophon"
CONTROL_FILE = "/dev/bmdev-ctl"
# libsophon, driver/bm_pcie.h.
PCI_VENDOR = "0x1f1c"

Kind = Literal["soc", "pcie", "none"]


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip.

    Attributes:
        index: its device id, what --device takes.
        name: of its kind, "BM1684X".
        board: type of card ("SC7-224T") or name of the SoC's device tree ("bm1684x_se7_v2.0").
        bus: place on the PCIe bus; "" on a SoC.
        state: what the driver says, "Active" or "Fault"; "" where it says nothing.
    """

    index: int
    name: str
    board: str
    bus: str
    state: str
    file: str
    heaps: tuple[Heap, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has.

    Attributes:
        chips: those that the driver knows.
        unclaimed: chips on the PCIe bus that no driver has taken.
        driver: its version; None where it does not tell.
        denied: device files that this user may not open.
    """

    kind: Kind
    chips: tuple[Chip, ...]
    unclaimed: tuple[str, ...]
    driver: str | None
    libsophon: Libsophon | None
    denied: tuple[str, ...]

    @property
    def working(self) -> list[Chip]:
        """The chips that the driver does not mark as faulty."""
        return [chip for chip in self.chips if chip.state != "Fault"]

    def chip(self, index: int) -> Chip | None:
        """Return the chip of a device id; None where there is none."""
        return next((chip for chip in self.chips if chip.index == index), None)


def look(system: System) -> Machine:
    """Find out what this machine has."""
    on_bus = _pci_chips(system)
    tree = system.text(f"{DEVICE_TREE}/info/file-name") or ""
    chips = _card_chips(system)
    kind: Kind = "pcie" if chips or on_bus else "none"
    if not chips and (tree.startswith("bm168") or system.exists("/sys/class/bm-tpu")):
        kind, chips = "soc", _soc_chips(system, tree)
    files = [CONTROL_FILE, *(chip.file for chip in chips), *(["/dev/ion"] if kind == "soc" else [])]
    # "release version:0.5.1   release date: ..." on a PCIe host (driver/bm_debug.c).
    version = re.search(r"release version:\s*([\d.]+)", system.text(f"{PROC}/driver_version") or "")
    return Machine(
        kind=kind,
        chips=tuple(chips),
        unclaimed=() if chips else tuple(on_bus),
        driver=version[1] if version else None,
        libsophon=find_libsophon(system),
        denied=tuple(f for f in files if system.exists(f) and not system.may_use(f)),
    )


def memory_holders(system: System, chip: Chip) -> list[str]:
    """Return other programs that have the device open, as far as this user may see."""
    files = {chip.file} if chip.bus else {chip.file, "/dev/ion"}
    found = []
    own = (system.link("/proc/self") or "").rsplit("/", 1)[-1]
    for process in system.names("/proc"):
        if not process.isdigit() or process == own:
            continue
        folder = f"/proc/{process}/fd"
        if any(system.link(f"{folder}/{number}") in files for number in system.names(folder)):
            found.append(f"{system.text(f'/proc/{process}/comm') or 'a program'} (process {process})")
    return found


def _card_chips(system: System) -> list[Chip]:
    """Chips of PCIe cards (libsophon, driver/bm_debug.c; doc/guide_en/3_2_proc_description.rst)."""
    chips = []
    for card in _numbered(system, PROC, "card"):
        # "0x1684x"
        kind = (system.text(f"{PROC}/{card}/chipid") or "").removeprefix("0x").upper()
        for name in _numbered(system, f"{PROC}/{card}", "bmsophon"):
            folder = f"{PROC}/{card}/{name}"
            index = int(name.removeprefix("bmsophon"))
            chips.append(
                Chip(
                    index=index,
                    name=f"BM{kind}" if kind else DEFAULT_CHIP.name,
                    board=system.text(f"{PROC}/{card}/board_type") or "",
                    bus=system.text(f"{folder}/dbdf") or "",
                    state=system.text(f"{folder}/status") or "",
                    # Outside of a container the class and the file have the same name (driver/bm_common.h).
                    file=f"/dev/bm-sophon{index}",
                    heaps=tuple(card_heaps(system.text(f"{folder}/heap") or "")),
                )
            )
    return sorted(chips, key=lambda chip: chip.index)


def _soc_chips(system: System, tree: str) -> list[Chip]:
    """The chip that this is, once its driver is loaded (/sys/class/bm-tpu: 3_3_sysfs_interface_description.rst)."""
    name = tree.partition("_")[0].upper() or DEFAULT_CHIP.name
    heaps = tuple(soc_heaps(system))
    board = tree.removesuffix(".dtb")
    entries = _numbered(system, "/sys/class/bm-tpu", "bm-tpu")
    return [Chip(int(e.removeprefix("bm-tpu")), name, board, "", "", f"/dev/{e}", heaps) for e in entries]


def _pci_chips(system: System) -> list[str]:
    folder = "/sys/bus/pci/devices"
    names = {f"{number:#06x}": name for number, name in CHIP_NAMES.items()}
    return [
        f"{names[device]} at {place}"
        for place in system.names(folder)
        if system.text(f"{folder}/{place}/vendor") == PCI_VENDOR
        and (device := system.text(f"{folder}/{place}/device") or "") in names
    ]


def _numbered(system: System, folder: str, prefix: str) -> list[str]:
    return [name for name in system.names(folder) if re.fullmatch(rf"{prefix}\d+", name)]
