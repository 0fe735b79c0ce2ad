"""Environments of the programs that talk to the server, at fixed versions."""

import subprocess
import sys
from pathlib import Path

from support.kept import kept, key_of


def environment_python(requirements: Path) -> Path:
    """The Python of an environment with these requirements, installed on first use.

    What is installed with it is run as its modules: the scripts name a folder that was moved since.
    """

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # Compiling a gigabyte of Python takes longer than to install it; programs compile what they import.
        install = ["-m", "pip", "install", "-q", "--no-compile", "--no-deps", "-r"]
        subprocess.run([folder / "bin" / "python", *install, requirements], check=True)

    return kept(key_of([requirements.read_bytes(), sys.version]), make) / "bin" / "python"
