"""Environment of a process that runs the vendor's simulator: its memory, and threads that sleep while they wait."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from bmqwen.runtime.bmrt.device import SIMULATOR_MEMORY
from bmqwen.util.paths import cache_folder

SOURCE = Path(__file__).with_name("patient_simulator.c")


def simulator_environment(memory: int) -> dict[str, str]:
    """Return the variables for a simulated chip of `memory` bytes.

    Without a C compiler, or a cache that can be written and has neither blank nor colon in its path, the simulator
    computes the same, but its threads spin.
    """
    variables = {SIMULATOR_MEMORY: hex(memory)}
    if (library := _patient_simulator()) is not None:
        variables["LD_PRELOAD"] = " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD")]))
    return variables


def _patient_simulator() -> Path | None:
    """Return the library made of SOURCE, compiled once into the cache; None if it cannot be."""
    # Machines may have one cache.
    made_for = repr((platform.machine(), platform.libc_ver()))
    key = hashlib.sha256(SOURCE.read_bytes() + made_for.encode()).hexdigest()[:16]
    library = cache_folder("toolchain") / f"patient-simulator-{key}.so"
    # What separates the paths in LD_PRELOAD cannot be part of one.
    if {" ", ":"} & set(str(library)):
        return None
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with suppress(OSError, subprocess.CalledProcessError):
        library.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, and renamed: another process may be making the same.
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".patient-simulator-") as folder:
            made = Path(folder) / library.name
            command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"]
            subprocess.run(command, check=True, capture_output=True)
            made.replace(library)
        return library
    return None
