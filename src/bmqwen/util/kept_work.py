"""What the cache keeps so that interrupted work goes on: a folder for each piece, named for its model."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bmqwen.errors import InputError
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import path_lock, storage_errors

Kind = Literal["quantize", "scores", "sensitivity"]
# What each kind is, for people.
KINDS: dict[Kind, str] = {
    "quantize": "begun: quantize goes on",
    "scores": "scores of evaluations",
    "sensitivity": "formats measured by quantize --budget",
}
_NAME = re.compile(r"(?P<model>.+)-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class KeptWork:
    """One piece: its folder, what it is, the model's name, and its size on disk."""

    folder: Path
    kind: Kind
    model: str
    bytes: int

    def remove(self) -> None:
        """Delete it. Raises InputError while another process works on it, StorageError."""
        with path_lock(self.folder, wait=False) as free:
            if not free:
                raise InputError(
                    f"{self.folder} is in use: stop the `bmqwen {self.kind}` that works on it first"
                )
            with storage_errors(self.folder):
                shutil.rmtree(self.folder)


def work_folder(kind: Kind, model: str, key: str) -> Path:
    """Return where work on a model is kept. `key`, hexadecimal, changes with what it depends on."""
    return cache_folder(kind) / f"{model}-{key[:12]}"


def kept_work() -> list[KeptWork]:
    """Return what is kept, by kind and name."""
    found = []
    for kind in KINDS:
        folder = cache_folder(kind)
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            named = _NAME.fullmatch(path.name)
            if named and path.is_dir():
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                found.append(KeptWork(path, kind, named["model"], size))
    return found
