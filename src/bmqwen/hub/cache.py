"""Folders that keep models: what they have in common, and our own."""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bmqwen.errors import InputError
from bmqwen.hub.catalog import Model, find
from bmqwen.hub.source import Release, RemoteFile, choose
from bmqwen.util.paths import cache_folder, gguf_parts
from bmqwen.util.storage import size_below, storage_errors


@dataclass(frozen=True)
class CachedModel:
    """A model on this machine.

    Attributes:
        name: what to call it.
        path: its folder, or its one GGUF file or bmodel; the first one of several GGUF files.
        size: bytes on disk.
        complete: False for an interrupted download.
    """

    name: str
    path: Path
    size: int
    complete: bool = False

    @property
    def files(self) -> list[Path]:
        """All its files, where `path` is one."""
        return [self.path.with_name(name) for name in gguf_parts(self.path.name)]


class Store:
    """A folder that keeps downloaded models: our own cache, or one that other programs share with us.

    Args:
        folder: where it is; need not exist.
    """

    variable: str
    """The environment variable that names another folder."""
    ending = ".incomplete"
    """Of the names of files that are not complete. They stay for the next run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()

    def place(self, model: Model, revision: str) -> Path:
        """Return the folder for the files of a state of a model; "" is the state that is there."""
        raise NotImplementedError

    def places(self, model: Model) -> list[Path]:
        """Return the folders where a model may lie that is there."""
        return [self.place(model, "")]

    def scan(self) -> Iterator[tuple[Path, list[Model]]]:
        """Yield each folder with files, and the models that these may be."""
        raise NotImplementedError

    def parts(self, folder: Path) -> list[Path]:
        """Return the incomplete files that belong to one of the folders in `scan`."""
        return list(folder.glob(f"*{self.ending}"))

    def find(self, model: Model) -> CachedModel | None:
        """Return a model whose files are all there; None otherwise. Needs no network."""
        with suppress(OSError, ValueError):  # a folder that we may not read, a reference that is none
            return next((found for place in self.places(model) if (found := _complete(model, place))), None)
        return None

    def models(self) -> list[CachedModel]:
        """Return all models, unfinished ones included."""
        models: list[CachedModel] = []
        with suppress(OSError, ValueError):
            for folder, names in self.scan():
                whole = [found for model in names if (found := _complete(model, folder))]
                if not whole and (parts := self.parts(folder)):
                    size = sum(part.stat().st_size for part in parts if part.parent != folder)
                    whole = [CachedModel(m.title, folder, size + size_below(folder)) for m in names[:1]]
                models += whole
        return models

    def remove(self, model: CachedModel) -> int:
        """Delete one of `models`, but no other GGUF file beside it; return the bytes freed. Raises StorageError."""
        folder = model.path if model.path.is_dir() else model.path.parent
        with storage_errors(self.folder):
            if model.path.is_file() and set(folder.glob("*.gguf")) - set(model.files):
                for file in model.files:
                    file.unlink()
                return model.size
            freed = size_below(folder)
            shutil.rmtree(folder)
        return freed

    def part(self, release: Release, file: RemoteFile) -> Path:
        """Return where a file grows."""
        return self.place(release.model, release.revision) / f"{file.name}{self.ending}"

    def has(self, release: Release, file: RemoteFile) -> bool:
        """Whether a file is there, complete."""
        return _has(self.place(release.model, release.revision) / file.name, file)

    def has_content(self, release: Release, file: RemoteFile) -> bool:
        """Whether what `part` would grow to is there, so that `add` needs no download."""
        return _has(self.part(release, file).with_suffix(""), file)

    def add(self, release: Release, file: RemoteFile) -> None:
        """Take in what has grown at `part`, complete and verified. Raises StorageError."""
        part = self.part(release, file)
        with storage_errors(self.folder):
            if not self.has_content(release, file):
                part.replace(part.with_suffix(""))


class Cache(Store):
    """Our own: models that came in wheels or from the chip's publisher, and those of earlier versions.

    Args:
        folder: None for the one in the user's cache.
    """

    variable = "BMQWEN_CACHE"
    ending = ".part"

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(cache_folder("models") if folder is None else folder)

    def place(self, model: Model, revision: str) -> Path:
        del revision  # nothing here has more than one
        return self.folder / model.name

    def scan(self) -> Iterator[tuple[Path, list[Model]]]:
        """Yield each folder, those of unfinished downloads of earlier versions too."""
        for folder in sorted([*self.folder.glob("[!.]*"), *self.folder.glob(".partial/*")]):
            model = Model(folder.name, {})
            with suppress(InputError):
                model = find(folder.name)
            yield folder, [model]

    def parts(self, folder: Path) -> list[Path]:
        """Return all files: what is here is ours, so that it is unfinished unless it is complete."""
        return [path for path in folder.rglob("*") if path.is_file()]


def _has(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and file.size in (0, path.stat().st_size)


def _complete(model: Model, folder: Path) -> CachedModel | None:
    """Return a model in a folder that anybody may have filled; None unless all of it is there."""
    if not folder.is_dir():
        return None
    files = [RemoteFile(path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file()]
    try:
        chosen = choose(model, files, str(folder))
    except InputError:
        return None
    size = sum(file.size for file in chosen)
    path = folder / chosen[0].name
    if path.suffix == ".gguf":
        return CachedModel(model.title, path, size, complete=True)
    shards = [match for file in chosen if (match := re.search(r"-of-(\d+)\.safetensors$", file.name))]
    if any(len(shards) < int(match[1]) for match in shards) or not (folder / "tokenizer.json").is_file():
        return None
    return CachedModel(model.title, path if path.suffix == ".bmodel" else folder, size, complete=True)
