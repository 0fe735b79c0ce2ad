"""The vendor's compiler, run: from one Top-MLIR file and its weights to one bmodel."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.errors import CompileError
from bmqwen.util.storage import storage_errors, write_file
from bmqwen.util.text import counted

Mode = Literal["F16", "BF16", "W8F16", "W8BF16", "W4F16", "W4BF16"]
AddressMode = Literal["basic", "io_alone", "io_reloc"]
PROFILE = "compiler_profile_0.txt"
LOG = "compiler.log"
# The compiler writes the time of day into a bmodel, as ctime() does: "Mon Nov 23 01:56:53 2026\n".
TIME_FIELD = re.compile(rb"\x19\0\0\0(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n)\0")
NO_TIME = b"Thu Jan  1 00:00:00 1970\n"
# What may come of compiling a kernel: done, or it does not fit into local or L2 memory and another is tried.
KERNEL_OUTCOMES = ("0", "17", "26")
ERROR_LINE = re.compile(r"\berror\b|\bfailed\b|Assertion|No space left", re.IGNORECASE)
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a net is lowered.

    Attributes:
        mode: types of weights and of computing. Weights already on a grid keep it in every W4 and W8 mode.
        group_size: columns that share a scale when the compiler itself quantises to 4 bits.
        address_mode: `io_alone` gives inputs and outputs memory that no intermediate result reuses.
        half_io: inputs and outputs are in the mode's half precision (else float32).
        float_output: outputs are in float32 all the same.
        layer_group: operations may share the core's memory.
        addresses: a file that says where inputs and outputs lie (`bmqwen.artifact.addresses`); None: anywhere.
    """

    mode: Mode
    group_size: int = 64
    address_mode: AddressMode = "io_alone"
    half_io: bool = True
    float_output: bool = False
    layer_group: bool = True
    addresses: Path | None = None
    chip: ChipSpec = field(default=DEFAULT_CHIP, repr=False)


@dataclass(frozen=True, slots=True)
class CompiledNet:
    """What a compilation left: the bmodel and the timeline of its commands (cycles of 1 ns)."""

    bmodel: Path
    profile: Path


def compile_net(
    toolchain: Toolchain, mlir: Path, recipe: Recipe, *, cancelled: threading.Event | None = None
) -> CompiledNet:
    """Compile `NAME.mlir`, whose weight file lies beside it, to `NAME.bmodel` in the same folder.

    The folder has to be this net's own: the compiler leaves other files there, its output in `compiler.log`.
    When `cancelled` is set from another thread, the compiler is killed.

    Raises CompileError (the compiler failed, or was cancelled), StorageError.
    """
    folder, name = mlir.parent.absolute(), mlir.stem
    _forget_failed_kernels(toolchain.kernels)
    log = folder / LOG
    log.unlink(missing_ok=True)
    for stage, arguments in enumerate(_passes(name, recipe), start=1):
        command = [str(toolchain.tpuc_opt), *arguments]
        _run(toolchain, command, folder, log, f"{name}, pass {stage} of 3", cancelled)
    bmodel = folder / f"{name}.bmodel"
    if not bmodel.is_file():
        raise CompileError(f"{name}: the compiler wrote no bmodel; {_cause(log)} (log: {log})")
    forget_time(bmodel)
    return CompiledNet(bmodel, folder / PROFILE)


def combine(
    toolchain: Toolchain, nets: Sequence[Path], bmodel: Path, *, cancelled: threading.Event | None = None
) -> None:
    """Join bmodels to one. Equal weights are stored once; nets of one name become stages of that net.

    Joining one more net to a joined bmodel gives the same bytes as joining all at once.
    Raises CompileError: model_tool failed, or was cancelled.
    """
    folder, what = bmodel.parent.absolute(), f"joining {counted(len(nets), 'net')}"
    log, beside = folder / "model_tool.log", folder / f".{bmodel.name}.part"
    parts = [str(net.absolute()) for net in nets]
    command = [str(toolchain.model_tool), "--combine", *parts, "-o", str(beside)]
    try:
        _run(toolchain, command, folder, log, what, cancelled)
        # model_tool ends with 0 after some failures.
        if not beside.is_file():
            raise CompileError(f"{what}: {_cause(log)} (log: {log})")
        forget_time(beside)
        beside.replace(bmodel)
    finally:
        beside.unlink(missing_ok=True)
    log.unlink()


def describe(toolchain: Toolchain, bmodel: Path) -> str:
    """Return what `model_tool --info` says of a bmodel. Raises CompileError for a file that is none."""
    result = toolchain.run(toolchain.model_tool, "--info", bmodel.absolute())
    if result.returncode or "net 0:" not in result.stdout:
        raise CompileError(f"{bmodel} is not a bmodel that model_tool can read: it is truncated or foreign")
    return result.stdout


def forget_time(bmodel: Path) -> None:
    """Replace the time of compilation by a constant, so that equal nets are equal files."""
    with storage_errors(bmodel), bmodel.open("r+b") as file:
        head = file.read(1 << 20)
        for match in TIME_FIELD.finditer(head):
            file.seek(match.start(1))
            file.write(NO_TIME)


def _passes(name: str, recipe: Recipe) -> list[list[str]]:
    """Arguments of the three runs, as the vendor's own converter gives them."""
    half, chip = recipe.half_io, recipe.chip
    target = f"chip={chip.target} mode={recipe.mode} num_device=1 num_core={chip.cores}"
    target += f" addr_mode={recipe.address_mode} high_precision=False"
    conversion = f"weightFileName={name}_tpu_weights.npz asymmetric=False doWinograd=False"
    conversion += (
        f" q_group_size={recipe.group_size} q_symmetric=False matmul_perchannel=False gelu_mode=normal"
    )
    output = "embed_debug_info=False model_version=latest bmodel_only=False gdma_check=False rvti=False"
    grouping = "--layer-group=opt=2 group_by_cores=auto compress_mode=none lgcache=true"
    places = f"=use_io_alone_config={recipe.addresses.absolute()}" if recipe.addresses else ""
    lower = [
        f"{name}.mlir",
        "--shape-infer",
        f"--processor-assign={target}",
        "--processor-top-optimize",
        f"--convert-top-to-tpu={conversion}",
        "--canonicalize",
        "--weight-fold",
        *("-o", f"{name}_tpu.mlir"),
    ]
    assign = [
        f"{name}_tpu.mlir",
        "--mlir-disable-threading",
        f"--strip-io-quant=quant_input={half} quant_output={half and not recipe.float_output}",
        "--processor-tpu-optimize",
        "--dev-parallel",
        "--weight-reorder",
        "--subnet-divide=dynamic=False",
        "--op-reorder",
        "--topo-sort",
        *([grouping] if recipe.layer_group else []),
        "--core-parallel",
        "--after-layergroup-weight-reorder",
        f"--address-assign{places}",
        *("-o", f"{name}_final.mlir"),
    ]
    codegen = [
        f"{name}_final.mlir",
        f"--codegen=model_file={name}.bmodel {output}",
        *("-o", os.devnull),
    ]
    return [lower, assign, codegen]


def _run(
    toolchain: Toolchain,
    command: Sequence[str],
    folder: Path,
    log: Path,
    what: str,
    cancelled: threading.Event | None,
) -> None:
    """Run one program, its output into `log`, in a process group of its own that is gone on any way out."""
    with storage_errors(log), log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=toolchain.environment(folder), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while (status := process.poll()) is None:
            if cancelled is not None and cancelled.is_set():
                raise CompileError(f"{what}: cancelled")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status:
        raise CompileError(f"{what}: {_ending(status)}{_cause(log)} (log: {log})")


def _ending(status: int) -> str:
    """How a process ended, when it was not by its own decision."""
    if status == -signal.SIGKILL:
        return "it was killed, probably because memory ran out: compile one net at a time (--jobs 1); "
    if status < 0:
        return f"it crashed ({signal.Signals(-status).name}); "
    return ""


def _cause(log: Path) -> str:
    """The line of a log that names the cause: the last error, else the last line before a crash's stack."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - (1 << 20)))
            text = file.read().decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.search(line)]
    if errors:
        return errors[-1][:300]
    before_stack = [line for line in lines if not re.match(r"#\d+ 0x|PLEASE submit|Stack dump|\d+\.\s", line)]
    return (before_stack or ["it printed nothing"])[-1][:300]


def _forget_failed_kernels(kernels: Path) -> None:
    """Drop failures from the kernel cache: else what failed once, say for want of cmake, is never tried again."""
    flags = kernels / "flag.txt"
    if not flags.is_file():
        return
    lines = flags.read_text().splitlines()
    kept = [line for line in lines if line.split()[1:] in ([o] for o in KERNEL_OUTCOMES)]
    if kept != lines:
        write_file(flags, "".join(f"{line}\n" for line in kept).encode())
