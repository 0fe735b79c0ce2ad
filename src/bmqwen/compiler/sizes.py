"""How large things are before they exist: on the chip, in this machine's memory while compiling, on disk."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmqwen.artifact.footprint import Footprint, fits, footprint, longest_context, weight_bytes
from bmqwen.artifact.steps import StepShape, step_shapes
from bmqwen.chip.memory import largest_heaps
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import BITS, Precision

# Peak of a compiler process in terms of the net's weights, and what it takes besides (measured).
COMPILER_FACTOR = {"grid": 3.3, "float": 4.6}
COMPILER_BASE = 300 << 20
# Files of one compilation under way, besides the shared weights, in terms of the weights.
SCRATCH_FACTOR = 3.2
BMODEL_FACTOR = 1.06


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a model that is to be compiled.

    Attributes:
        chip: what it takes of the chip's memory.
        weight_file: of the file of weights that the compiler reads.
        floats: whether most weights are not on a grid.
        table: the embedding table on the host.
        values: how many weights there are in the nets.
    """

    chip: Footprint
    weight_file: int
    floats: bool
    table: int
    values: int

    @property
    def compiler(self) -> int:
        """Memory that one compiler process takes at most, about."""
        return int(COMPILER_FACTOR["float" if self.floats else "grid"] * self.chip.weights) + COMPILER_BASE

    @property
    def bundle(self) -> int:
        """Disk for the finished bundle, a little too much."""
        return int(self.chip.weights * BMODEL_FACTOR) + self.table + (64 << 20)

    def scratch(self, jobs: int) -> int:
        """Disk for compiling, `jobs` nets at a time: those under way, those finished, and what is joined, twice."""
        weights = self.chip.weights
        bmodel = int(weights * BMODEL_FACTOR)
        return self.weight_file + jobs * int(SCRATCH_FACTOR * weights) + (jobs + 1) * bmodel + (64 << 20)


def sizes(config: ModelConfig, precision: Precision, context: int, shapes: Sequence[StepShape]) -> Sizes:
    """Sizes from the configuration alone."""
    weight_file = total = 0
    tensors = config.network.shapes()
    chip = footprint(config, precision, context, shapes)
    for name in weight_bytes(config, precision):
        shape = tensors[name]
        values = math.prod(shape)
        total += values
        plain = name.removesuffix(".weight")
        form = precision.of(plain)
        if len(shape) == 2 and form in BITS:
            weight_file += values * BITS[form] // 8 + 5 * (values // precision.group_of(plain, shape[1]))
        else:
            weight_file += 4 * values
    return Sizes(
        chip=chip,
        weight_file=weight_file,
        floats=precision.weights not in BITS,
        table=2 * config.vocab_size * config.hidden_size,
        values=total,
    )


def check_device_memory(config: ModelConfig, precision: Precision, context: int, size: Sizes) -> None:
    """Raise InputError if the model cannot fit on the largest chip."""
    heaps = largest_heaps(DEFAULT_CHIP.board)
    if fits(size.chip, heaps):
        return
    longest = longest_context(config, precision, step_shapes, lambda chip: fits(chip, heaps))
    fix = f"choose --seq-len {longest} or less" if longest else "choose a smaller --quant"
    parts = size.chip
    needed, weights, cache, work = (
        f"{n / 2**30:.1f}"
        for n in (parts.total, parts.weights, parts.cache, parts.activations + parts.instructions)
    )
    most = sum(heap.total for heap in heaps)
    raise InputError(
        f"--seq-len {context} needs {needed} GiB of the chip's memory (weights {weights}, K/V cache {cache}, "
        f"rest {work}), but a {DEFAULT_CHIP.name} has at most {most / 2**30:.1f}, the largest piece of it "
        f"{heaps[0].total / 2**30:.1f}, which the weights have to fit into: {fix}"
    )


def parallel_jobs(size: Sizes, asked: int | None, available: int | None = None) -> int:
    """How many nets to compile at a time: what memory allows, at most one for each processor, at least one.

    Args:
        size: of the model.
        asked: what the user wants, which is taken as it is.
        available: bytes of memory; None: what this machine has free now.
    """
    if asked is not None:
        return max(1, asked)
    free = available_memory() if available is None else available
    return max(1, min(len(os.sched_getaffinity(0)), free // size.compiler))


def check_host_memory(size: Sizes, asked: int | None, available: int | None = None) -> None:
    """Raise InputError if not even one compiler has room, unless the user names the number of jobs.

    Arguments are those of `parallel_jobs`.
    """
    free = available_memory() if available is None else available
    if asked is None and free < size.compiler:
        raise InputError(
            f"compiling needs about {size.compiler / 1e9:.1f} GB of this machine's memory, and {free / 1e9:.1f} GB "
            "are free: choose a smaller --quant or a larger machine, or try nevertheless with --jobs 1"
        )


def available_memory() -> int:
    """Bytes that new processes can take without swapping, by the kernel and by the control group's limit."""
    free = 4 << 30
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    return max(free, 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
