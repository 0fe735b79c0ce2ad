"""How a SoC's memory is divided at boot, and the vendor's command that divides it anew.

Limits and arithmetic are those of the vendor's memory_edit.sh 2.12 (sophon-tools, source/pmemory_edit).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bmqwen.chip.heaps import DEVICE_TREE, Heap, cells, place, reserved_size
from bmqwen.chip.system import System

MIB = 1 << 20
BOOT_FILE = "emmcboot.itb"
# Where the vendor's sample programs have it from.
FETCH_KIT = (
    "wget https://github.com/sophgo/sophon-tools/releases/download/v24.09.21/memory_edit_v2.10.tar.xz && "
    "tar xaf memory_edit_v2.10.tar.xz && cd memory_edit"
)
# What a guide in circulation names instead.
WRONG_BOOT_FILE = "boot.itb"
# The kernel's own in the third memory (const_kernel_minimal), and what lies above the VPU's heap.
KERNEL, VPU_GUARD, VPU_FIRMWARE = 1024 * MIB, 1 * MIB, 128 * MIB
# What Linux, the embedding table's pages and other services want at least (vendor's own choice leaves 1.9 GiB).
SYSTEM_NEEDS = 1792 * MIB
# A heap this small still serves a video stream; below it the vendor's kit removes the heap.
SMALLEST = 512 * MIB
STEP = 16
# Of the NPU's heap, what the chip's own kernels and commands under way take besides a model.
SPARE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the heaps in MiB."""

    npu: int
    vpu: int
    vpp: int

    @property
    def total(self) -> int:
        """MiB of all three."""
        return self.npu + self.vpu + self.vpp

    def commands(self) -> list[str]:
        """What sets it, in the folder of the vendor's memory_edit."""
        return [
            "./memory_edit.sh -p",
            f"./memory_edit.sh -c -npu {self.npu} -vpu {self.vpu} -vpp {self.vpp}",
            f"sudo cp {BOOT_FILE} /boot/{BOOT_FILE} && sync",
            "sudo reboot",
        ]


@dataclass(frozen=True, slots=True)
class Board:
    """What a SoC has to divide, in bytes.

    Attributes:
        memory: of all kinds.
        firmware: what nothing else may use: ARM firmware, its tables, the VPU's firmware.
        most: the largest size of each heap.
        now: the layout that it was booted with.
    """

    memory: int
    firmware: int
    most: Layout
    now: Layout

    def system(self, layout: Layout) -> int:
        """Bytes that a layout leaves to Linux."""
        return self.memory - self.firmware - layout.total * MIB


# An SE7 as delivered, SDK V24.04.01 (linux-arm64, bm1684x_mm_16g.dtsi). A card with as much memory has a heap as large.
SE7 = Board(
    memory=16384 * MIB,
    firmware=577 * MIB + VPU_FIRMWARE,
    most=Layout(npu=7615, vpu=3071, vpp=4096),
    now=Layout(npu=3950, vpu=2047, vpp=3072),
)


def largest_heaps(board: Board) -> list[Heap]:
    """The heaps that a SoC could be given, in the order in which they are tried."""
    sizes = {"npu": board.most.npu, "vpp": board.most.vpp, "vpu": board.most.vpu}
    return [Heap(name, size * MIB) for name, size in sizes.items()]


def read_board(system: System) -> Board | None:
    """From the device tree that the SoC was booted with; None where it has no such division."""
    banks = cells(system.data(f"{DEVICE_TREE}/memory/reg") or b"")
    heaps = [reserved_size(system, f"ion_{name}_mem") for name in ("npu", "vpu", "vpp")]
    if not banks or not any(heaps):
        return None
    # Addresses 0x1_.. and 0x2_.. hold the NPU's heap, 0x3_.. the VPU's, 0x4_.. the VPP's.
    sizes = [sum(size for start, size in banks if start >> 32 in place) for place in ((1, 2), (3,), (4,))]
    fixed = sum(reserved_size(system, node) for node in ("armfw_mem", "arm_mem", "smmu_mem"))
    vpu_taken = KERNEL + VPU_FIRMWARE + VPU_GUARD
    # Kernels that keep their log at 0x314000000 have the VPU's firmware below the kernel's part.
    log = cells(system.data(f"{DEVICE_TREE}/reserved-memory/ramoops_mem/reg") or b"")
    if log and log[0][0] == 0x3_1400_0000:
        vpu_taken -= VPU_FIRMWARE
    most = Layout(*((max(0, size) // MIB) for size in (sizes[0] - fixed, sizes[1] - vpu_taken, sizes[2])))
    now = Layout(*(size // MIB for size in heaps))
    return Board(sum(sizes), fixed + VPU_FIRMWARE, most, now)


def plan_layout(board: Board, pieces: Sequence[int], used: int = 0) -> Layout | None:
    """The smallest change that lets a model's allocations fit; None where none does.

    The NPU's heap grows first; VPU and VPP keep what they have, or give up to Linux what it lacks, or take the
    pieces that the NPU's cannot hold.

    Args:
        board: what there is.
        pieces: bytes of each allocation.
        used: bytes that other programs hold in the NPU's heap.
    """
    vpu, vpp = board.now.vpu, board.now.vpp
    small = SMALLEST // MIB
    used += SPARE
    needed = _mib(sum(pieces) + used)
    if needed <= board.most.npu:
        return _with_room(board, max(board.now.npu, needed), vpu, vpp, (small, small))
    most = board.most
    npu, *others = largest_heaps(board)
    taken = place(pieces, [replace(npu, used=used), *others])
    if taken is None:
        return None
    needs = max(small, _mib(taken[2])), max(small, _mib(taken[1]))
    return _with_room(
        board, most.npu, min(most.vpu, max(vpu, needs[0])), min(most.vpp, max(vpp, needs[1])), needs
    )


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
