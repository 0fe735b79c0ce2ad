"""The folder that keeps one copy of every downloaded model.

`models/NAME` holds a finished one and a record of where it came from, `partial/NAME` an unfinished one
for the next run to go on with, `locks/NAME.lock` keeps two processes apart.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from bmqwen.checkpoint.disk import size_below, storage_error
from bmqwen.checkpoint.json_file import read_json_object
from bmqwen.checkpoint.listing import Release
from bmqwen.errors import CheckpointError, InputError, StorageError

_RECORD = ".bmqwen.json"
_SPARE = 16 << 20


def cache_folder() -> Path:
    """The cache: BMQWEN_CACHE, else the user's cache folder of this system."""
    named = os.environ.get("BMQWEN_CACHE")
    return Path(named).expanduser() if named else user_cache_path("bmqwen")


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache.

    Attributes:
        name: what to call it.
        path: its folder, or its one GGUF file.
        bytes: on disk.
        source: where it came from; empty while it is unfinished.
        revision: which state of it.
        complete: False for an interrupted download.
    """

    name: str
    path: Path
    bytes: int
    source: str
    revision: str
    complete: bool


class Cache:
    """The cache in a folder, which need not exist yet."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()).absolute()

    def find(self, name: str) -> CachedModel | None:
        """A finished model whose files are all there at their full length; None otherwise."""
        folder = self.folder / "models" / name
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
        only = next(iter(files)) if len(files) == 1 else ""
        path = folder / only if only.endswith(".gguf") else folder
        return CachedModel(
            name,
            path,
            size_below(folder),
            str(record.get("source")),
            str(record.get("revision")),
            complete=True,
        )

    def models(self) -> list[CachedModel]:
        """All models, unfinished ones included, by name."""
        found = []
        for name in sorted(_names(self.folder / "models") | _names(self.folder / "partial")):
            model = self.find(name)
            if model is None:
                folders = [self.folder / room / name for room in ("partial", "models")]
                size = sum(size_below(folder) for folder in folders)
                path = next(folder for folder in folders if folder.exists())
                model = CachedModel(name, path, size, "", "", complete=False)
            found.append(model)
        return found

    def partial(self, name: str, origin: str, revision: str) -> Path:
        """The folder for an unfinished download of one state of a model. Raises StorageError."""
        folder = self.folder / "partial" / name / "-".join((origin, revision[:40].replace("/", "-")))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.folder) from error
        return folder

    def make_room(self, release: Release, folder: Path) -> None:
        """Check that what is missing of a release fits on the disk. Raises StorageError with the numbers."""
        needed = release.size + release.scratch - size_below(folder)
        free = shutil.disk_usage(folder).free
        if needed > 0 and needed + _SPARE > free:
            raise StorageError(
                f"{release.model.name} needs {needed:,} bytes more in {self.folder}, but {free:,} are free: "
                "free some space, or name another folder in BMQWEN_CACHE"
            )

    def publish(self, release: Release, folder: Path) -> None:
        """Turn a complete and verified partial folder into the finished model, all at once.

        Raises StorageError.
        """
        name = release.model.name
        record = {
            "source": release.origin,
            "repo": release.repo,
            "revision": release.revision,
            "files": {file.name: file.size for file in release.files},
        }
        final = self.folder / "models" / name
        try:
            (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            final.parent.mkdir(parents=True, exist_ok=True)
            self._discard(name)  # a damaged one
            folder.rename(final)
            shutil.rmtree(self.folder / "partial" / name)
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def prune(self, folder: Path) -> None:
        """Remove a partial folder, and the one above it, if no files are in them."""
        below = sorted(folder.rglob("*"), reverse=True)
        for empty in (*below, folder, folder.parent):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[None]:
        """Keep other processes away from a model.

        Raises:
            Timeout: it is taken, and `wait` is False.
            StorageError: the cache cannot be written.
        """
        folder = self.folder / "locks"
        lock = FileLock(folder / f"{name}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
        except Timeout:
            raise
        except OSError as error:
            raise storage_error(error, self.folder) from error
        try:
            yield
        finally:
            lock.release()

    def remove(self, name: str) -> int:
        """Delete a model, finished or not; the bytes that this freed.

        Raises:
            InputError: it is not in the cache, or another process downloads it now.
            StorageError: it cannot be deleted.
        """
        folders = [self.folder / room / name for room in ("models", "partial")]
        if not any(folder.exists() for folder in folders):
            known = ", ".join(model.name for model in self.models()) or "nothing"
            raise InputError(f"{name} is not in the cache {self.folder}, which holds {known}")
        try:
            with self.lock(name, wait=False):
                freed = sum(size_below(folder) for folder in folders)
                self._discard(name)
                shutil.rmtree(self.folder / "partial" / name, ignore_errors=False)
        except Timeout:
            raise InputError(f"{name} is being downloaded by another process: stop that first") from None
        except OSError as error:
            raise storage_error(error, self.folder) from error
        return freed

    def _discard(self, name: str) -> None:
        # Renamed first, so that an interrupted removal leaves no half of a model under its name.
        final, away = self.folder / "models" / name, self.folder / "partial" / name / "discarded"
        if final.exists():
            shutil.rmtree(away, ignore_errors=True)
            away.parent.mkdir(parents=True, exist_ok=True)
            final.rename(away)
            shutil.rmtree(away)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
