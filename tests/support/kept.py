"""What tests make once and keep: for all tests, for all processes that run them, and for later runs."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import new_folder, path_lock

# Looked up before any test sets a cache of its own.
FOLDER = cache_folder("tests")
UNUSED_SECONDS = 7 * 24 * 3600


def key_of(parts: Iterable[bytes | str]) -> str:
    """A name for what is made of these parts, and of nothing else."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()[:32]


def kept(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of a key. `make` fills it on first use, while whoever else wants it waits."""
    folder = FOLDER / key
    if not folder.exists():
        with path_lock(folder):
            if not folder.exists():
                with new_folder(folder) as part:
                    make(part)
    # The time of the last use: `forget_unused` goes by it.
    folder.touch()
    return folder


def forget_unused() -> None:
    """Remove what no run has used for a week."""
    for folder in FOLDER.glob("*"):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
