"""A chip's memory: the heaps that it is divided into, how a SoC divides it at boot, and what goes into it.

One allocation has to fit into one heap. Limits and arithmetic of the division are those of the vendor's
memory_edit.sh 2.12 (sophon-tools, source/pmemory_edit).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bmqwen.chip.problems import Problem, larger_than_heap, too_little_memory
from bmqwen.chip.spec import DEFAULT_CHIP, MIB, Board, Layout
from bmqwen.chip.system import System
from bmqwen.util.text import size_text

DEBUG_FOLDER = "/sys/kernel/debug/ion"
DEVICE_TREE = "/proc/device-tree"
# Where the vendor's sample programs have it from.
FETCH_KIT = (
    "wget https://github.com/sophgo/sophon-tools/releases/download/v24.09.21/memory_edit_v2.10.tar.xz && "
    "tar xaf memory_edit_v2.10.tar.xz && cd memory_edit"
)
# The kernel's own in the third memory (const_kernel_minimal), and what lies above the VPU's heap.
KERNEL, VPU_GUARD, VPU_FIRMWARE = 1024 * MIB, 1 * MIB, 128 * MIB
# What Linux, the embedding table's pages and other services want at least (vendor's own choice leaves 2.0 GB).
SYSTEM_NEEDS = 1792 * MIB
# A heap this small still serves a video stream; below it the vendor's kit removes the heap.
SMALLEST = 512 * MIB
STEP = 16
# Of the NPU's heap, what the chip's own kernels and commands under way take besides a model.
SPARE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap: "npu", "vpp" or "vpu" on a SoC, "heap0" ... on a card. Bytes; `used` is None where nobody tells."""

    name: str
    total: int
    used: int | None = None

    @property
    def free(self) -> int:
        """Bytes that are free, as far as it is known."""
        return self.total - (self.used or 0)


def soc_heaps(system: System) -> list[Heap]:
    """Return the heaps of a SoC: from debugfs, which only root may read, else their sizes from the device tree."""
    heaps = []
    for name in DEFAULT_CHIP.heaps:
        heap = parse_summary(system.text(f"{DEBUG_FOLDER}/bm_{name}_heap_dump/summary") or "")
        if heap is None and (size := reserved_size(system, f"ion_{name}_mem")):
            heap = Heap(name, size)
        if heap is not None:
            heaps.append(heap)
    return heaps


def parse_summary(text: str) -> Heap | None:
    """Read a heap of linux-arm64, drivers/soc/bitmain/ion/bitmain/bitmain_ion_debugfs.c (bm_ion_debug_heap_show)."""
    found = re.search(r"\[\d+\] (\w+) heap size:(\d+) bytes, used:(\d+) bytes", text)
    return Heap(found[1], int(found[2]), int(found[3])) if found else None


def card_heaps(text: str) -> list[Heap]:
    """Read the heaps of a chip on a card, whose use the driver tells only to libbmlib (driver/bm_debug.c, heap)."""
    found = re.findall(r"heap(\d+), size = 0x([0-9a-f]+)", text)
    return [Heap(f"heap{number}", int(size, 16)) for number, size in found if int(size, 16)]


def largest_heaps(board: Board) -> list[Heap]:
    """Return the heaps that a SoC could be given, in the order in which they are tried."""
    return [Heap(name, getattr(board.most, name) * MIB) for name in DEFAULT_CHIP.heaps]


def place(pieces: Sequence[int], heaps: Sequence[Heap]) -> list[int] | None:
    """Lay allocations (bytes) as libbmlib does, each into the first heap with room.

    Returns the bytes that each heap takes; None where a piece finds no room.
    """
    taken = [0] * len(heaps)
    for piece in pieces:
        index = next((i for i, heap in enumerate(heaps) if taken[i] + piece <= heap.free), None)
        if index is None:
            return None
        taken[index] += piece
    return taken


def why_too_large(purpose: str, pieces: Sequence[int], heaps: Sequence[Heap], device: str) -> Problem | None:
    """Return why allocations (bytes) do not go into a device's memory; None: they do."""
    if place(pieces, heaps) is not None:
        return None
    largest, most = max(pieces), max(heaps, key=lambda heap: heap.total)
    if largest > most.total:
        return larger_than_heap(purpose, largest, most.name, most.total)
    free = sum(heap.free for heap in heaps)
    if free >= sum(pieces):
        most = max(heaps, key=lambda heap: heap.free)
        return larger_than_heap(purpose, largest, f"{most.name}, as far as it is free", most.free)
    return too_little_memory(purpose, sum(pieces), device, free)


def read_board(system: System) -> Board | None:
    """Read the device tree that a SoC was booted with; None where memory is not divided so."""
    banks = _cells(system.data(f"{DEVICE_TREE}/memory/reg") or b"")
    heaps = [reserved_size(system, f"ion_{name}_mem") for name in ("npu", "vpu", "vpp")]
    if not banks or not any(heaps):
        return None
    # Addresses 0x1_.. and 0x2_.. hold the NPU's heap, 0x3_.. the VPU's, 0x4_.. the VPP's.
    sizes = [sum(size for start, size in banks if start >> 32 in bank) for bank in ((1, 2), (3,), (4,))]
    fixed = sum(reserved_size(system, node) for node in ("armfw_mem", "arm_mem", "smmu_mem"))
    vpu_taken = KERNEL + VPU_FIRMWARE + VPU_GUARD
    # Kernels that keep their log at 0x314000000 have the VPU's firmware below the kernel's part.
    log = _cells(system.data(f"{DEVICE_TREE}/reserved-memory/ramoops_mem/reg") or b"")
    if log and log[0][0] == 0x3_1400_0000:
        vpu_taken -= VPU_FIRMWARE
    most = Layout(*((max(0, size) // MIB) for size in (sizes[0] - fixed, sizes[1] - vpu_taken, sizes[2])))
    now = Layout(*(size // MIB for size in heaps))
    return Board(sum(sizes), fixed + VPU_FIRMWARE, most, now)


def reserved_size(system: System, node: str) -> int:
    """Return the bytes of a reserved piece of a SoC's memory; 0 where there is none."""
    folder = f"{DEVICE_TREE}/reserved-memory"
    # A node is called by its name, behind which some kernels add "@address".
    named = next((n for n in system.names(folder) if n.partition("@")[0] == node), node)
    return sum(size for _, size in _cells(system.data(f"{folder}/{named}/reg") or b""))


def plan_layout(board: Board, pieces: Sequence[int]) -> Layout | None:
    """Return the smallest change that lets a model's allocations (bytes) fit; None where none does.

    The NPU's heap grows first; VPU and VPP keep what they have, or give up to Linux what it lacks, or take the
    pieces that the NPU's cannot hold.
    """
    vpu, vpp, most = board.now.vpu, board.now.vpp, board.most
    small = SMALLEST // MIB
    needed = _mib(sum(pieces) + SPARE)
    if needed <= most.npu:
        return _with_room(board, max(board.now.npu, needed), vpu, vpp, (small, small))
    npu, *others = largest_heaps(board)
    taken = place(pieces, [replace(npu, used=SPARE), *others])
    if taken is None:
        return None
    needs = max(small, _mib(taken[2])), max(small, _mib(taken[1]))
    vpu, vpp = min(most.vpu, max(vpu, needs[0])), min(most.vpp, max(vpp, needs[1]))
    return _with_room(board, most.npu, vpu, vpp, needs)


def layout_fix(layout: Layout, board: Board) -> str:
    """Return the commands that divide a SoC's memory so, and the file that they are about."""
    chip, commands = DEFAULT_CHIP, " && ".join(layout_commands(layout))
    return (
        f"`{FETCH_KIT}` (the vendor's kit; once), and there `{commands}` ({chip.boot_file} it is; the "
        f"{chip.wrong_boot_file} that a guide in circulation names belongs to {chip.wrong_chip}, this chip never reads "
        f"it; memory_edit counts in MiB); Linux keeps {size_text(board.system(layout), 'MB')}"
    )


def layout_commands(layout: Layout) -> list[str]:
    """Return what divides a SoC's memory so, in the folder of the vendor's memory_edit."""
    file = DEFAULT_CHIP.boot_file
    return [
        f"./memory_edit.sh -c -npu {layout.npu} -vpu {layout.vpu} -vpp {layout.vpp}",
        f"sudo cp {file} /boot/{file} && sync",
        "sudo reboot",
    ]


def _with_room(board: Board, npu: int, vpu: int, vpp: int, least: tuple[int, int]) -> Layout | None:
    """Take from VPP, then VPU, what Linux lacks, down to `least`; None where that is not enough."""
    missing = -(-(SYSTEM_NEEDS - board.system(Layout(npu, vpu, vpp))) // MIB)
    for_vpp = max(0, min(missing, vpp - least[1]))
    for_vpu = max(0, min(missing - for_vpp, vpu - least[0]))
    layout = Layout(npu, vpu - for_vpu, vpp - for_vpp)
    return layout if board.system(layout) >= SYSTEM_NEEDS else None


def _mib(size: int) -> int:
    """MiB, rounded up to a multiple of STEP."""
    return -(-size // (STEP * MIB)) * STEP


def _cells(reg: bytes) -> list[tuple[int, int]]:
    """Addresses and sizes of a `reg` property with two big-endian cells for each."""
    numbers = [int.from_bytes(reg[i : i + 8], "big") for i in range(0, len(reg) - 7, 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=False))
