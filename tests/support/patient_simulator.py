"""A simulator whose threads sleep while they wait: see patient_simulator.c."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.kept import kept, key_of

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "patient_simulator.so"


@contextmanager
def patient_simulator() -> Iterator[None]:
    """Every simulator that starts inside of the block, in whatever process, is patient."""

    def build(folder: Path) -> None:
        command = ["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", str(SOURCE), "-ldl"]
        subprocess.run([*command, "-o", str(folder / LIBRARY)], check=True)

    library = kept(key_of([SOURCE.read_bytes()]), build) / LIBRARY
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = " ".join(filter(None, [str(library), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = before
