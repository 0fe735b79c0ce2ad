"""Wheels from the indexes that pip is configured for: pip says where one is, or fetches it itself."""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bmqwen.errors import DownloadError, MissingDependencyError, StorageError
from bmqwen.hub.source import RemoteFile
from bmqwen.hub.transfer import download
from bmqwen.hub.watched_program import Program, run_watched
from bmqwen.hub.wheel_link import WheelLink
from bmqwen.util.progress import Report
from bmqwen.util.storage import storage_errors

STALL_SECONDS = 120.0
# One retry: an index that cannot be reached shall be known in seconds. No cache: it would keep a second copy.
_OPTIONS = (
    "--only-binary=:all:",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--retries=1",
)
_TITLE = "the package index"


def find_pip(path: str | None = None) -> list[str]:
    """The command that runs pip: this interpreter's, else one on the search path (`path`, or the user's).

    Raises:
        MissingDependencyError: there is none.
    """
    if sys.executable and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    return find_pip_program(path)


def find_pip_program(path: str | None = None) -> list[str]:
    """A pip on the search path. Any will do, for wheels that suit every Python. Raises as `find_pip`."""
    for name in ("pip", "pip3"):
        if found := shutil.which(name, path=path):
            return [found]
    raise MissingDependencyError(
        "the download from PyPI needs pip, which this Python lacks: run `python -m ensurepip`, "
        "or `uv pip install pip` in an environment made by uv"
    )


def fetch_wheel(
    requirement: str,
    folder: Path,
    report: Report,
    pip: Sequence[str],
    stall: float = STALL_SECONDS,
    options: Sequence[str] = (),
    sha256: str | None = None,
) -> None:
    """Download the wheel of `requirement` ("name==version"), without its dependencies, into `folder`.

    What an earlier call left there (`*.whl.part`) is continued, where pip can say at which address the wheel is. Where
    it cannot (a folder of wheels, an index with a password, a proxy of pip's own) pip fetches it, in one go.

    Args:
        requirement: what to fetch.
        folder: where to; exists.
        report: is told the bytes that have arrived so far.
        pip: command that runs pip.
        stall: seconds without a byte or a word from pip after which it is given up.
        options: more options for pip, for example where to look.
        sha256: of the wheel; None to believe the index.

    Raises:
        DownloadError: no index could be reached, none has it, the network failed, or its hash is another.
        StorageError: the disk is full.
    """
    run = _Pip(requirement, folder, pip, stall, options)
    link = run.find(report)
    size = link.file.size() if link else None
    if link is None or size is None:
        run.download(report)
        return
    part = folder / f"{link.name}.part"
    download(
        link.file.open_at,
        RemoteFile(link.name, size, sha256 or link.sha256),
        part,
        report,
        _TITLE,
    )
    with storage_errors(part):
        part.replace(folder / link.name)


class _Pip:
    """pip for one wheel; what it writes on the way goes away again."""

    def __init__(
        self, requirement: str, folder: Path, pip: Sequence[str], stall: float, options: Sequence[str]
    ) -> None:
        self._requirement, self._folder, self._pip = requirement, folder, pip
        self._stall, self._options = stall, options

    def find(self, report: Report) -> WheelLink | None:
        """Where the wheel is; None where only pip can fetch it. Raises DownloadError if no index could be reached."""
        name, _, version = self._requirement.partition("==")
        # Not every pip has this command, and none promises its words: what cannot be read is left to `download`.
        _, log = self._run(["index", "versions", name, "-vv", *_OPTIONS, *self._options], report)
        lines = log.splitlines()
        link = WheelLink.read(lines, version)
        if link is None and not any("Found link" in line for line in lines):
            _require_reached(lines)
        return link

    def download(self, report: Report) -> None:
        """Have pip fetch it."""
        where = ("--no-deps", "--progress-bar=off", "--dest", str(self._folder))
        code, log = self._run(["download", *where, *_OPTIONS, *self._options, self._requirement], report)
        if code != 0:
            raise _error(self._requirement, log, self._folder)

    def _run(self, arguments: Sequence[str], report: Report) -> tuple[int, str]:
        # pip collects a download in TMPDIR: there it can be watched, and cleared away after a cut.
        incoming, log = self._folder / "incoming", self._folder / "pip.log"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        try:
            program = Program("pip", [*self._pip, *arguments], environment={"TMPDIR": str(incoming)})
            code = run_watched(program, incoming, log, report, self._stall)
            return code, log.read_text("utf-8", "replace")
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
            log.unlink(missing_ok=True)


def _require_reached(lines: Sequence[str]) -> None:
    # pip calls an index that it cannot reach "no matching distribution": the cause is in its warnings.
    if any("Retrying (Retry(" in line for line in lines):
        raise DownloadError("pip could not reach its package index (`pip config list` shows which)")


def _error(requirement: str, log: str, folder: Path) -> DownloadError | StorageError:
    lines = log.splitlines()
    if "No space left on device" in log:
        return StorageError(f"no space left while writing {folder}: free some disk space and try again")
    _require_reached(lines)
    cause = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    return DownloadError(f"pip could not fetch {requirement} ({cause.removeprefix('ERROR:').strip()[:200]})")
