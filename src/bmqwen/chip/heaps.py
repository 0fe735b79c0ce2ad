"""The heaps that device memory is divided into: one allocation has to fit into one of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bmqwen.chip.system import System

# In the order in which libbmlib tries them (libsophon, bmlib/src/bmlib_memory.cpp, bm_get_carveout_heap_id).
SOC_HEAPS = ("npu", "vpp", "vpu")
DEBUG_FOLDER = "/sys/kernel/debug/ion"
DEVICE_TREE = "/proc/device-tree"


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap.

    Attributes:
        name: "npu", "vpp" or "vpu" on a SoC, "heap0" ... on a card.
        total: bytes.
        used: bytes; None where nobody tells, or not to this user.
    """

    name: str
    total: int
    used: int | None = None

    @property
    def free(self) -> int:
        """Bytes that are free, as far as it is known."""
        return self.total - (self.used or 0)


def soc_heaps(system: System) -> list[Heap]:
    """The heaps of a SoC: from debugfs, which only root may read, else their sizes from the device tree."""
    heaps = []
    for name in SOC_HEAPS:
        heap = parse_summary(system.text(f"{DEBUG_FOLDER}/bm_{name}_heap_dump/summary") or "")
        if heap is None and (size := reserved_size(system, f"ion_{name}_mem")):
            heap = Heap(name, size)
        if heap is not None:
            heaps.append(heap)
    return heaps


def parse_summary(text: str) -> Heap | None:
    """One heap of linux-arm64, drivers/soc/bitmain/ion/bitmain/bitmain_ion_debugfs.c (bm_ion_debug_heap_show)."""
    found = re.search(r"\[\d+\] (\w+) heap size:(\d+) bytes, used:(\d+) bytes", text)
    return Heap(found[1], int(found[2]), int(found[3])) if found else None


def card_heaps(text: str) -> list[Heap]:
    """The heaps of a chip on a card, whose use the driver tells only to libbmlib (driver/bm_debug.c, heap)."""
    found = re.findall(r"heap(\d+), size = 0x([0-9a-f]+)", text)
    return [Heap(f"heap{number}", int(size, 16)) for number, size in found if int(size, 16)]


def reserved_size(system: System, node: str) -> int:
    """Bytes of a reserved piece of a SoC's memory; 0 where there is none."""
    folder = f"{DEVICE_TREE}/reserved-memory"
    # A node is called by its name, behind which some kernels add "@address".
    named = next((n for n in system.names(folder) if n.partition("@")[0] == node), node)
    return sum(size for _, size in cells(system.data(f"{folder}/{named}/reg") or b""))


def cells(reg: bytes) -> list[tuple[int, int]]:
    """Addresses and sizes of a `reg` property with two big-endian cells for each."""
    numbers = [int.from_bytes(reg[i : i + 8], "big") for i in range(0, len(reg) - 7, 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def place(pieces: Sequence[int], heaps: Sequence[Heap]) -> list[int] | None:
    """The bytes that each heap takes when pieces are laid as libbmlib lays them: each into the first with room.

    Args:
        pieces: bytes of each allocation, in the order in which they are made.
        heaps: in the order in which they are tried.

    Returns:
        As many numbers as heaps; None where a piece finds no room.
    """
    taken = [0] * len(heaps)
    for piece in pieces:
        index = next((i for i, heap in enumerate(heaps) if taken[i] + piece <= heap.free), None)
        if index is None:
            return None
        taken[index] += piece
    return taken
