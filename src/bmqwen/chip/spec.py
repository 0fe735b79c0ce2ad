"""The kinds of chips that models are compiled for: what tells one from another stands here and in no other file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bmqwen.errors import BundleError

MIB = 1 << 20
# Machines that chips are in, as `bmqwen estimate --host` names them.
HostName = Literal["se7", "pcie"]
DEFAULT_HOST: HostName = "se7"


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a SoC's heaps in MiB."""

    npu: int
    vpu: int
    vpp: int

    @property
    def total(self) -> int:
        """MiB of all three."""
        return self.npu + self.vpu + self.vpp


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
        """Return the bytes that a layout leaves to Linux."""
        return self.memory - self.firmware - layout.total * MIB


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that the chip is in.

    Attributes:
        op_ms: milliseconds of a call: a launch, or a copy to or from the device.
        python_factor: how many times as long Python takes there as `bmqwen.estimate.forecast` says.
        copy: bytes a second of a long copy to or from the device, assumed: half of what PCIe 3.0 carries on 4 lanes.
    """

    name: str
    op_ms: float
    python_factor: float
    copy: float = 2e9


@dataclass(frozen=True, slots=True)
class ChipSpec:
    """A kind of chip.

    Attributes:
        id: what libbmlib and the PCIe bus call it.
        cores: of matrix units that a net may use.
        lanes: of a core, which compute a row each.
        bus: bytes a second over its memory bus at most.
        copy: bytes a second of a copy inside of its memory, each read and written.
        memory_start: the address of the first byte of its memory, as the compiler numbers it.
        most_queries: queries that one attention kernel takes: longer steps are cut, and what a part cannot see is not
            computed.
        fewest_queries: the kernel cuts fewer than so many queries into tiny blocks: it is faster with copies of them.
            One has its own way.
        heaps: of a SoC, in the order in which libbmlib tries them.
        boot_file: in /boot, says how a SoC's memory is divided.
        wrong_boot_file: what guides for another chip, `wrong_chip`, name in its place.
        box: name of the usual SoC machine.
        board: that machine's memory, as delivered. A card with as much memory has a heap as large as its largest.
    """

    name: str
    id: int
    cores: int
    lanes: int
    bus: float
    copy: float
    memory_start: int
    most_queries: int
    fewest_queries: int
    heaps: tuple[str, ...]
    boot_file: str
    wrong_boot_file: str
    wrong_chip: str
    box: str
    board: Board
    hosts: Mapping[HostName, Host]

    @property
    def target(self) -> str:
        """What the compiler calls it, and the libraries' files."""
        return self.name.lower()

    @property
    def simulator(self) -> str:
        """File name of the library that simulates it."""
        return f"libcmodel_{self.target}.so"

    @property
    def key(self) -> list[str]:
        """What tells keys of things made for it from the default's, which were made before there was a choice."""
        return [] if self is DEFAULT_CHIP else [self.name]

    @property
    def host(self) -> Host:
        """The usual box."""
        return self.hosts[DEFAULT_HOST]


BM1684X = ChipSpec(
    name="BM1684X",
    id=0x1686,
    cores=1,
    lanes=64,
    # LPDDR4X-4266 on 128 bits.
    bus=68.3e9,
    # Measured on the simulator.
    copy=26e9,
    memory_start=1 << 32,
    most_queries=256,
    fewest_queries=32,
    # libsophon, bmlib/src/bmlib_memory.cpp, bm_get_carveout_heap_id.
    heaps=("npu", "vpp", "vpu"),
    boot_file="emmcboot.itb",
    wrong_boot_file="boot.itb",
    wrong_chip="BM1688",
    box="SE7",
    # SDK V24.04.01 (linux-arm64, bm1684x_mm_16g.dtsi).
    board=Board(
        memory=16384 * MIB,
        firmware=(577 + 128) * MIB,
        most=Layout(npu=7615, vpu=3071, vpp=4096),
        now=Layout(npu=3950, vpu=2047, vpp=3072),
    ),
    # The box's A53 cores: fitted to four published speeds, 0.1404 to 0.1451. A card in a PCIe slot: an assumption.
    # Three bmodels were published on both, 0.286, 0.409 and 0.468 for each call if the host alone makes the difference
    # (MiniCPM3 4B 10.047 and 7.891 tokens/s, Llama 3.2 11B 7.506 and 6.024, Janus Pro 7B 7.963 and 6.416).
    # Python: an A53 of 2.3 GHz, which runs in order, is taken for ten times as slow as a server's core; not measured.
    hosts={"se7": Host("SE7", 0.1425, 10), "pcie": Host("PCIe card (assumed)", 0.41, 1)},
)
SPECS = {spec.name: spec for spec in (BM1684X,)}
# What is compiled for, and what a machine that does not tell is taken for.
DEFAULT_CHIP = BM1684X
# What the PCIe bus and libbmlib call each kind that they know, with or without a spec here.
CHIP_NAMES = {0x1684: "BM1684", 0x1688: "BM1688"} | {spec.id: name for name, spec in SPECS.items()}
# What SAIL calls them besides.
SAIL_NAMES = (*CHIP_NAMES.values(), "CV186AH")


def spec_of(name: str, source: object) -> ChipSpec:
    """Return the spec of a chip by its name. Raises BundleError for one that has none: `source` was compiled for it."""
    if name not in SPECS:
        known = " or ".join(SPECS)
        raise BundleError(
            f"{source} was compiled for {name[:40].strip() or 'no chip'}, and only nets for {known} can be run: get or "
            "compile one of those"
        )
    return SPECS[name]
