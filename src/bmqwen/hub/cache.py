"""The folder that keeps one copy of every downloaded model.

`NAME` holds a finished one and a record of where it came from, `.partial/NAME` an unfinished one for the
next run to go on with, `.locks/NAME.lock` keeps two processes apart.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bmqwen.errors import CheckpointError, InputError
from bmqwen.hub.source import Release
from bmqwen.util.disk import size_below
from bmqwen.util.json_file import read_json_object
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import storage_errors

_RECORD = ".bmqwen.json"
_PARTIAL = ".partial"
_LOCKS = ".locks"


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache.

    Attributes:
        name: what to call it.
        path: its folder, or its one GGUF file or bmodel.
        size: bytes on disk.
        source: where it came from; empty while it is unfinished.
        revision: which state of it.
        complete: False for an interrupted download.
    """

    name: str
    path: Path
    size: int
    source: str
    revision: str
    complete: bool


class Cache:
    """The models in a folder, which need not exist yet; None for the one in the user's cache."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder("models") if folder is None else folder.absolute()

    def find(self, name: str) -> CachedModel | None:
        """A finished model whose files are all there at their full length; None otherwise."""
        folder = self.folder / name
        try:
            record = read_json_object(folder / _RECORD, CheckpointError)
        except CheckpointError:
            return None
        files = record.get("files")
        if not isinstance(files, dict) or not files:
            return None
        for file, size in files.items():
            path = folder / file
            if not path.is_file() or path.stat().st_size != size:
                return None
        only = next((file for file in files if file.endswith((".gguf", ".bmodel"))), "")
        # A GGUF file is complete by itself, and a bmodel finds its tokenizer beside it.
        path = folder / only if only and (len(files) == 1 or only.endswith(".bmodel")) else folder
        source, revision = str(record.get("source")), str(record.get("revision"))
        return CachedModel(name, path, size_below(folder), source, revision, complete=True)

    def models(self) -> list[CachedModel]:
        """All models, unfinished ones included, by name."""
        found = []
        for name in sorted(_names(self.folder) | _names(self.folder / _PARTIAL)):
            model = self.find(name)
            if model is None:
                folders = self._folders(name)
                path = next(folder for folder in folders if folder.exists())
                size = sum(size_below(folder) for folder in folders)
                model = CachedModel(name, path, size, source="", revision="", complete=False)
            found.append(model)
        return found

    def partial(self, release: Release) -> Path:
        """The folder for an unfinished download of one state of a model. Raises StorageError."""
        state = f"{release.origin}-{release.revision[:40].replace('/', '-')}"
        folder = self.folder / _PARTIAL / release.model.name / state
        with storage_errors(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, release: Release, folder: Path) -> None:
        """Turn a complete and verified partial folder into the finished model, all at once.

        Raises StorageError.
        """
        name = release.model.name
        record = {
            "source": release.origin,
            "repo": release.repo,
            "revision": release.revision,
            "files": {file.name: (folder / file.name).stat().st_size for file in release.files},
        }
        with storage_errors(self.folder):
            (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            self._discard(name)  # a damaged one
            folder.rename(self.folder / name)
            shutil.rmtree(self.folder / _PARTIAL / name)

    def prune(self, folder: Path) -> None:
        """Remove a partial folder, and the one above it, if no files are in them."""
        below = sorted(folder.rglob("*"), reverse=True)
        for empty in (*below, folder, folder.parent):
            with suppress(OSError):  # not empty, or gone
                empty.rmdir()

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Keep other processes away from a model; without `wait`, False if one has it now. Raises StorageError."""
        folder = self.folder / _LOCKS
        lock = FileLock(folder / f"{name}.lock")
        with storage_errors(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def remove(self, name: str) -> int:
        """Delete a model, finished or not; the bytes that this freed.

        Raises:
            InputError: it is not in the cache, or another process downloads it now.
            StorageError: it cannot be deleted.
        """
        folders = self._folders(name)
        if not any(folder.exists() for folder in folders):
            known = ", ".join(model.name for model in self.models()) or "nothing"
            raise InputError(f"{name} is not in the cache {self.folder}, which holds {known}")
        with self.lock(name, wait=False) as mine, storage_errors(self.folder):
            if not mine:
                raise InputError(f"{name} is being downloaded by another process: stop that first")
            freed = sum(size_below(folder) for folder in folders)
            self._discard(name)
            shutil.rmtree(self.folder / _PARTIAL / name)
        return freed

    def _folders(self, name: str) -> tuple[Path, Path]:
        return self.folder / _PARTIAL / name, self.folder / name

    def _discard(self, name: str) -> None:
        # Renamed first, so that an interrupted removal leaves no half of a model under its name.
        partial, final = self._folders(name)
        away = partial / "discarded"
        if final.exists():
            shutil.rmtree(away, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=True)
            final.rename(away)
            shutil.rmtree(away)


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
