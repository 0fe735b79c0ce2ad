"""How large things are before they exist: on the chip, in this machine's memory while compiling, on disk."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmqwen.checkpoint.config import ModelConfig
from bmqwen.checkpoint.layout import expected_tensors
from bmqwen.errors import InputError
from bmqwen.network.qwen2 import head_weight
from bmqwen.quant.precision import BITS, Precision
from bmqwen.steps import StepShape

CHIP_BYTES = 16 << 30
# Peak of a compiler process in terms of the net's weights, and what it takes besides (measured).
COMPILER_FACTOR = {"grid": 3.3, "float": 4.6}
COMPILER_BASE = 300 << 20
# Files of one compilation under way, besides the shared weights, in terms of the weights.
SCRATCH_FACTOR = 3.2
BMODEL_FACTOR = 1.06


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a compiled model.

    Attributes:
        weights: on the chip.
        weight_file: of the file of weights that the compiler reads.
        cache: K/V memory.
        work: inputs, outputs and intermediate results of the longest net, about.
        floats: whether most weights are not on a grid.
        table: the embedding table on the host.
        values: how many weights there are in the nets.
    """

    weights: int
    weight_file: int
    cache: int
    work: int
    floats: bool
    table: int
    values: int

    @property
    def device(self) -> int:
        """Memory of the chip that the model takes."""
        return self.weights + self.cache + self.work

    @property
    def compiler(self) -> int:
        """Memory that one compiler process takes at most, about."""
        return int(COMPILER_FACTOR["float" if self.floats else "grid"] * self.weights) + COMPILER_BASE

    @property
    def bundle(self) -> int:
        """Disk for the finished bundle, a little too much."""
        return int(self.weights * BMODEL_FACTOR) + self.table + (64 << 20)

    def scratch(self, jobs: int) -> int:
        """Disk for compiling, `jobs` nets at a time: those under way, those finished, and what is joined, twice."""
        bmodel = int(self.weights * BMODEL_FACTOR)
        return self.weight_file + jobs * int(SCRATCH_FACTOR * self.weights) + (jobs + 1) * bmodel + (64 << 20)


def sizes(config: ModelConfig, precision: Precision, context: int, shapes: Sequence[StepShape]) -> Sizes:
    """Sizes from the configuration alone."""
    weights = weight_file = total = 0
    head = f"{head_weight(config)}.weight"
    for name, shape in expected_tensors(config).items():
        if name == "model.embed_tokens.weight" and name != head:
            continue
        total += math.prod(shape)
        if len(shape) == 1:
            weights, weight_file = weights + 2 * shape[0], weight_file + 4 * shape[0]
            continue
        plain = name.removesuffix(".weight")
        form, values = precision.of(plain), shape[0] * shape[1]
        if form in BITS:
            groups = values // precision.group_of(plain, shape[1])
            weights += values * BITS[form] // 8 + 3 * groups
            weight_file += values * BITS[form] // 8 + 5 * groups
        else:
            weights, weight_file = weights + 2 * values, weight_file + 4 * values
    most = max(shape.tokens for shape in shapes)
    rows = context + most
    wide = config.hidden_size + config.q_size + 2 * config.kv_size + 2 * config.intermediate_size + rows
    return Sizes(
        weights=weights,
        weight_file=weight_file,
        cache=4 * config.num_hidden_layers * config.kv_size * rows,
        work=2 * most * wide + 6 * config.vocab_size + (32 << 20),
        floats=precision.weights not in BITS,
        table=2 * config.vocab_size * config.hidden_size,
        values=total,
    )


def check_device_memory(config: ModelConfig, context: int, size: Sizes) -> None:
    """Raise InputError if the model cannot fit on the largest chip."""
    if size.device <= CHIP_BYTES:
        return
    row = 4 * config.num_hidden_layers * config.kv_size
    # The longest net's own rows come on top of the context's.
    rows = (CHIP_BYTES - size.weights - size.work) // row - (size.cache // row - context)
    cure = f"choose --seq-len {rows // 128 * 128} or less" if rows >= 128 else "choose a smaller --quant"
    needed, weights, cache, work = (
        f"{n / 2**30:.1f}" for n in (size.device, size.weights, size.cache, size.work)
    )
    raise InputError(
        f"--seq-len {context} needs {needed} GiB of the chip's memory (weights {weights}, K/V cache {cache}, "
        f"rest {work}), but a BM1684X has at most {CHIP_BYTES >> 30}: {cure}"
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
