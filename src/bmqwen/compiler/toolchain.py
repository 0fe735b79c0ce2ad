"""The vendor's compiler and simulator: found or fetched, and the environment that they run in."""

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bmqwen.chip.spec import DEFAULT_CHIP, SPECS
from bmqwen.chip.system import System
from bmqwen.errors import DownloadError, InputError, MissingDependencyError
from bmqwen.hub.hub import offline_wanted
from bmqwen.hub.package_index import fetch_wheel, unpack
from bmqwen.util.paths import cache_folder, named_toolchain
from bmqwen.util.storage import file_sha256, new_folder, path_lock, require_free, size_below, storage_errors
from bmqwen.util.text import size_text

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel of which one file alone will do; `python` is what its metadata ask for (it runs under none here)."""

    requirement: str
    sha256: str
    python: tuple[int, int] = (3, 10)

    @property
    def version(self) -> str:
        """The version in the requirement."""
        return self.requirement.partition("==")[2]


WHEEL_BYTES = 312 << 20
UNPACKED_BYTES = 300 << 20
WHEEL = PinnedWheel("tpu_mlir==1.30.2", "542807361c9eeb0777a7bd35e501d8c71cce767e4bce021a3cb3a7c25c35f909")
GLIBC = (2, 34)
TPUC_OPT = "bin/tpuc-opt"
MODEL_TOOL = "bin/model_tool"
KERNEL_COMPILER = "cross_toolchains/ppl_compile"
# The simulator's libraries, by the name that each is looked up with.
SIMULATOR = {
    "libbmrt.so.1.0": "lib/libbmrt.so.1.0",
    "libbmlib.so.0": "lib/libbmlib.so.0",
    "libcmodel.so": f"lib/{DEFAULT_CHIP.simulator}",
}
# What compiling for and simulating the chip opens. The rest of lib/ serves other chips or the wheel's Python;
# the C library in lib/third_party breaks every program on a host with a newer one.
LIBRARIES = (
    *(f"lib/libbackend_{chip.target}.so" for chip in SPECS.values()),
    "lib/libcpuop.so",
    "lib/libortools.so.9",
    "lib/libppl_host.so",
    *(
        f"lib/lib{chip.target}_{part}.so"
        for chip in SPECS.values()
        for part in ("kernel_module", "atomic_kernel")
    ),
    "lib/third_party/libdnnl.so.3",
    "lib/third_party/libomp.so.5",
    *SIMULATOR.values(),
)
NEEDED = (TPUC_OPT, MODEL_TOOL, f"{KERNEL_COMPILER}/bin/ppl-compile", *LIBRARIES)
# Programs that the compiler calls for its kernels; the last of each row is the package that brings it.
PROGRAMS = (("cmake",), ("make",), ("cc", "gcc"), ("c++", "g++"))


@dataclass(frozen=True, slots=True)
class Toolchain:
    """An unpacked compiler.

    Attributes:
        root: the folder that has bin/ and lib/ (the vendor's TPUC_ROOT).
        version: of the wheel, or "external" for one that the user named.
        state: a writable folder of ours, for kernels compiled on the way and for links.
    """

    root: Path
    version: str
    state: Path

    @property
    def tpuc_opt(self) -> Path:
        """The compiler."""
        return self.root / TPUC_OPT

    @property
    def identity(self) -> list[str | int]:
        """What tells this very compiler from others, for keys of what it made."""
        stat = self.tpuc_opt.stat()
        parts: list[str | int] = [self.version, stat.st_size]
        return [*parts, str(self.root), stat.st_mtime_ns] if self.version == "external" else parts

    @property
    def model_tool(self) -> Path:
        """The program that joins and describes bmodels."""
        return self.root / MODEL_TOOL

    @property
    def kernels(self) -> Path:
        """Cache of kernels that the compiler compiles just in time."""
        return self.state / "kernels"

    @property
    def simulator_folder(self) -> Path:
        """A folder of libraries for `bmqwen.runtime.bmrt` that simulate the chip."""
        folder = self.state / "simulator"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, target in SIMULATOR.items():
                link = folder / name
                if not link.exists():
                    beside = folder / f".{name}.{os.getpid()}"
                    beside.unlink(missing_ok=True)
                    beside.symlink_to(self.root / target)
                    beside.replace(link)
        return folder

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run one of its programs and return what it printed. Raises OSError where it cannot be started."""
        environment = self.environment(self.state)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )

    def environment(self, work: Path) -> dict[str, str]:
        """The whole environment of a compiler run in `work`. Without one of the PPL_ variables it crashes."""
        compiler = self.root / KERNEL_COMPILER
        with storage_errors(self.state):
            for folder in (self.kernels, self.state / "build"):
                folder.mkdir(parents=True, exist_ok=True)
        passed = {k: v for k, v in os.environ.items() if k in ("TMPDIR", "CC", "CXX", "CMAKE_GENERATOR")}
        return passed | {
            "TPUC_ROOT": str(self.root),
            "PPL_PROJECT_ROOT": str(compiler),
            "PPL_RUNTIME_PATH": str(compiler / "deps"),
            "PPL_CACHE_PATH": f"{self.kernels}/",
            "PPL_BUILD_PATH": str(self.state / "build"),
            "PPL_WORK_PATH": str(work),
            # Beyond this many kernels it deletes the oldest, which another process may be using.
            "CACHE_ITEMS": "1000000",
            "PWD": str(work),
            "HOME": str(work),
            "LANG": "C",
            "PATH": f"{compiler / 'bin'}:{self.root / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(
                [*_host_libraries(), f"{self.root}/lib", f"{self.root}/lib/third_party"]
            ),
        }


def open_toolchain(*, report: Report = lambda _: None, wheel: PinnedWheel = WHEEL) -> Toolchain:
    """Return the compiler, fetched once into the cache unless BMQWEN_TOOLCHAIN names the folder of an installed SDK.

    Raises:
        MissingDependencyError: the host cannot run it, or lacks a program that it calls.
        InputError: the folder named has no compiler.
        StorageError, DownloadError: it could not be fetched.
    """
    check_host()
    cache = cache_folder("toolchain")
    if (named := named_toolchain()) is not None:
        toolchain = Toolchain(sdk_root(named.expanduser().absolute()), "external", cache / "external")
    else:
        folder = cache / wheel.version
        if not folder.is_dir():
            _fetch(wheel, folder, report)
        toolchain = Toolchain(folder / "tpu_mlir", wheel.version, cache / f"{wheel.version}-state")
        _require_files(toolchain.root, f"remove {folder} and run the command again")
    _check_loads(toolchain)
    return toolchain


def has_toolchain(wheel: PinnedWheel = WHEEL) -> bool:
    """Return whether `open_toolchain` has nothing to fetch."""
    return named_toolchain() is not None or (cache_folder("toolchain") / wheel.version).is_dir()


def _fetch(wheel: PinnedWheel, folder: Path, report: Report) -> None:
    """Download and unpack the wheel as `folder`; of several processes one does it.

    An interrupted download, and a wheel that was not unpacked to the end, stay beside it for the next call.
    """
    title = f"the {DEFAULT_CHIP.name} compiler"
    if offline_wanted():
        raise DownloadError(
            f"{title} is not in the cache {folder.parent}, and offline mode is on: unset "
            "BMQWEN_OFFLINE and HF_HUB_OFFLINE to download it, or name an installed one in BMQWEN_TOOLCHAIN"
        )
    incoming = folder.with_name(f"{folder.name}.partial")
    with path_lock(folder, lambda: report(f"another process fetches {title}: waiting for it")):
        if folder.is_dir():
            return
        require_free(folder.parent, WHEEL_BYTES + UNPACKED_BYTES - size_below(incoming), title)
        report(f"fetching {title}, {wheel.requirement} ({size_text(WHEEL_BYTES)}, once)")
        with storage_errors(incoming):
            incoming.mkdir(exist_ok=True)
        try:
            archive = _archive(wheel, incoming, report)
            report(f"unpacking it into {folder}")
            try:
                with new_folder(folder) as beside:
                    unpack(archive, beside, is_wanted)
                    _require_files(beside / "tpu_mlir", "report this as a bug of bmqwen")
            except (DownloadError, MissingDependencyError):
                archive.unlink()
                raise
            shutil.rmtree(incoming)
        finally:
            with contextlib.suppress(OSError):  # gone, or with a part in it
                incoming.rmdir()


def _archive(wheel: PinnedWheel, folder: Path, report: Report) -> Path:
    """Return the wheel, which an earlier call may have left in `folder`."""
    with storage_errors(folder):
        for there in folder.glob("*.whl"):
            if file_sha256(there) == wheel.sha256:
                return there
            there.unlink()
    return fetch_wheel(wheel.requirement, folder, steps(report), sha256=wheel.sha256, python=wheel.python)


def steps(report: Report) -> Callable[[int], None]:
    """Return a function that reports a line each time that another fifth of the download has arrived."""
    told = 0

    def advance(done: int) -> None:
        nonlocal told
        fifth = 5 * done // WHEEL_BYTES
        if told < fifth < 5:
            told = fifth
            report(
                f"fetching the {DEFAULT_CHIP.name} compiler: {size_text(done)} of {size_text(WHEEL_BYTES)}"
            )

    return advance


def check_host() -> None:
    """Raise MissingDependencyError unless this host can run the compiler and has what it calls."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in (("Linux", "x86_64"), ("Linux", "AMD64")):
        raise MissingDependencyError(
            f"the {DEFAULT_CHIP.name} compiler and simulator run on x86-64 Linux only, this is {system} on {machine}: "
            "compile on such a machine and copy the bundle"
        )
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(int(n) for n in version.split(".")[:2]) < GLIBC:
        raise MissingDependencyError(
            f"the {DEFAULT_CHIP.name} compiler needs glibc {GLIBC[0]}.{GLIBC[1]} or newer (Ubuntu 22.04, Debian 12), "
            f"this system has {version}"
        )
    missing = [names[-1] for names in PROGRAMS if not any(map(shutil.which, names))]
    if missing:
        raise MissingDependencyError(
            f"the {DEFAULT_CHIP.name} compiler needs {', '.join(missing)} on this machine: "
            f"`sudo apt install {' '.join(missing)}` installs them on Debian and Ubuntu"
        )


def is_wanted(member: str) -> bool:
    """Whether a member of the wheel is unpacked."""
    if member.startswith("tpu_mlir-") and "/licenses/" in member:
        return True
    inside = member.removeprefix("tpu_mlir/")
    if inside.startswith(f"{KERNEL_COMPILER}/"):
        return not inside.startswith(f"{KERNEL_COMPILER}/third_party/")
    return inside in NEEDED


def sdk_root(named: Path) -> Path:
    """The folder with bin/tpuc-opt of an SDK that the user named."""
    for root in (named, named / "tpu_mlir"):
        if (root / TPUC_OPT).is_file():
            _require_files(root, "name the folder of a complete tpu_mlir, or unset BMQWEN_TOOLCHAIN")
            return root
    raise InputError(
        f"{named} has no {DEFAULT_CHIP.name} compiler ({TPUC_OPT}): name the folder of an unpacked tpu_mlir"
    )


def _require_files(root: Path, fix: str) -> None:
    if missing := [name for name in NEEDED if not (root / name).is_file()]:
        raise MissingDependencyError(f"the compiler in {root} lacks {missing[0]}: {fix}")


def _host_libraries() -> list[str]:
    """The folder of this process's own C library, so that a foreign one in an SDK is not loaded before it."""
    maps = System().text("/proc/self/maps") or ""
    own = [line.split()[-1] for line in maps.splitlines() if line.endswith("/libc.so.6")]
    return [str(Path(path).parent) for path in own[:1]]


def _check_loads(toolchain: Toolchain) -> None:
    """Start the compiler once: a library that the host lacks is named now, not after an hour's work."""
    try:
        result = toolchain.run(toolchain.tpuc_opt, "--version")
    except OSError as error:
        raise MissingDependencyError(f"{toolchain.tpuc_opt} cannot be started: {error.strerror}") from error
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        cause = lines[0].split(":", 1)[-1].strip() if lines else f"exit status {result.returncode}"
        raise MissingDependencyError(
            f"the compiler {toolchain.tpuc_opt} does not start: {cause}; on Debian and Ubuntu "
            "`sudo apt install libstdc++6 libtinfo6 zlib1g` installs what it loads"
        )
