"""Programs that people connect, at fixed versions, in an environment of their own: with --clients only."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kept import kept, key_of
from support.live_server import LiveServer

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


@pytest.fixture(scope="session")
def client_programs() -> Path:
    """The folder of the environment's programs."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # Compiling a gigabyte of Python takes longer than to install it; programs compile what they import.
        pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile", "--no-deps"]
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True)

    place = kept(key_of([REQUIREMENTS.read_bytes(), sys.version]), make)
    return place / "bin"


@pytest.fixture(scope="session")
def demo() -> Iterator[LiveServer]:
    """The demo model, as everybody has it."""
    with LiveServer(None, ["--name", "demo"], {}) as server:
        yield server
