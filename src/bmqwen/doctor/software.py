"""What runs and compiles models besides a chip: Python, packages, the compiler, room on the disk."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bmqwen.chip.problems import LEVELS, Finding
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.chip.system import System
from bmqwen.errors import BmqwenError
from bmqwen.util.paths import cache_folder, named_toolchain
from bmqwen.util.storage import existing_above
from bmqwen.util.text import size_text

AREA = "software"
_ok, _warning, _error = (partial(Finding, AREA, level) for level in LEVELS)
PYTHON = ((3, 10), (3, 13))
# A small model and its conversion.
SMALL_DISK = 2_000_000_000
INSTALL = "pip install -c constraints.txt '.[{}]'"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the running program knows of its environment.

    Attributes:
        machine: the processor's kind, "x86_64" or "aarch64".
        cache: where downloads and the compiler are kept; `free` bytes there, and whether this user may write.
        toolchain: the compiler's folder that BMQWEN_TOOLCHAIN names; None: that of the cache.
    """

    python: tuple[int, int, int] = field(default_factory=lambda: sys.version_info[:3])
    machine: str = field(default_factory=platform.machine)
    cache: Path = field(default_factory=lambda: cache_folder("models").parent)
    free: int = field(default_factory=lambda: shutil.disk_usage(existing_above(cache_folder("models"))).free)
    writable: bool = field(
        default_factory=lambda: os.access(f"{existing_above(cache_folder('models'))}/.", os.W_OK | os.X_OK)
    )
    toolchain: Path | None = field(default_factory=named_toolchain)


def check_software(system: System, host: Environment, *, has_chip: bool) -> Iterator[Finding]:
    """Examine everything but the chip; `has_chip`: something else than the CPU can run models."""
    yield _python(host)
    version = system.package_version("tokenizers")
    if version is None:
        yield _error("the package tokenizers is not installed", f"`{INSTALL.format('cpu')}`")
    else:
        yield _ok(f"tokenizers {version}")
    yield _cpu_engine(system, has_chip)
    yield from _compiler(system, host)
    free = f"{size_text(host.free)} free in {host.cache}"
    if not host.writable:
        fix = "fix its permissions, or name another folder in BMQWEN_CACHE"
        yield _error(f"the cache {host.cache} is not a folder that you may write to", fix)
    elif host.free < SMALL_DISK:
        yield _warning(free, "`bmqwen remove NAME` frees some, or set BMQWEN_CACHE to a larger disk")
    else:
        yield _ok(free)


def _python(host: Environment) -> Finding:
    version = ".".join(map(str, host.python))
    lowest, highest = (".".join(map(str, limit)) for limit in PYTHON)
    if host.python[:2] < PYTHON[0]:
        return _error(f"Python {version}", f"install Python {lowest} to {highest}")
    if host.python[:2] > PYTHON[1]:
        return _warning(f"Python {version} is newer than what was tested, {highest}")
    return _ok(f"Python {version} on {host.machine}")


def _cpu_engine(system: System, has_chip: bool) -> Finding:
    version = system.package_version("onnxruntime")
    if version is not None:
        return _ok(f"CPU engine: onnxruntime {version}")
    fix = f"`{INSTALL.format('cpu')}`"
    if has_chip:
        return _ok("CPU engine: not installed, which a chip does not need", fix)
    return _error("nothing here runs a model: no chip, and no CPU engine (onnxruntime)", fix)


def _compiler(system: System, host: Environment) -> Iterator[Finding]:
    if host.machine not in ("x86_64", "AMD64"):
        yield _ok("compiler: runs on x86-64 only, bundles are compiled there and copied here")
        return
    from bmqwen.compiler.toolchain import PROGRAMS, TPUC_OPT, WHEEL, sdk_root

    missing = [names[-1] for names in PROGRAMS if not any(map(system.has_program, names))]
    if missing:
        yield _warning(
            f"compiling and simulating need {', '.join(missing)}", f"`sudo apt install {' '.join(missing)}`"
        )
    else:
        yield _ok("cmake, make, C and C++ compiler")
    if host.toolchain is not None:
        try:
            yield _ok(f"{DEFAULT_CHIP.name} compiler: {sdk_root(host.toolchain)}, named by BMQWEN_TOOLCHAIN")
        except BmqwenError as error:
            text, _, fix = str(error).rpartition(": ")
            yield _error(f"BMQWEN_TOOLCHAIN: {text}", fix)
        return
    unpacked = host.cache / "toolchain" / WHEEL.version / "tpu_mlir"
    place = f"in {unpacked}" if (unpacked / TPUC_OPT).is_file() else "is fetched when it is needed"
    yield _ok(f"{DEFAULT_CHIP.name} compiler: tpu_mlir {WHEEL.version} {place}")
