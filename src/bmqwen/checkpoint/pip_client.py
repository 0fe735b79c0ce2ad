"""pip, run as a program that fetches a wheel. Its configuration is the user's own."""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bmqwen.checkpoint.watched_program import Program, run_watched
from bmqwen.errors import DownloadError, MissingDependencyError, StorageError
from bmqwen.progress import Report

STALL_SECONDS = 120.0
# One retry: an index that cannot be reached shall be known in seconds. No cache: it would keep a second copy.
_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--progress-bar=off",
    "--retries=1",
)


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
) -> None:
    """Download the wheel of `requirement` ("name==version"), without its dependencies, into `folder`.

    Args:
        requirement: what to fetch.
        folder: where to; exists.
        report: is told the bytes that have arrived so far.
        pip: command that runs pip.
        stall: seconds without a byte or a word from pip after which it is given up.
        options: more options for `pip download`, for example where to look.

    Raises:
        DownloadError: pip could not reach an index, or found nothing.
        StorageError: the disk is full.
    """
    # pip collects a download in TMPDIR: there it can be watched, and cleared away after a cut.
    incoming, log = folder / "incoming", folder / "pip.log"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    command = [*pip, "download", *_OPTIONS, "--dest", str(folder), *options, requirement]
    try:
        program = Program("pip", command, environment={"TMPDIR": str(incoming)})
        code = run_watched(program, incoming, log, report, stall)
        if code != 0:
            raise _error(requirement, log.read_text("utf-8", "replace"), folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        log.unlink(missing_ok=True)


def _error(requirement: str, log: str, folder: Path) -> DownloadError | StorageError:
    lines = log.splitlines()
    if "No space left on device" in log:
        return StorageError(f"no space left while writing {folder}: free some disk space and try again")
    # pip calls an index that it cannot reach "no matching distribution": the cause is in its warnings.
    if any("Retrying (Retry(" in line for line in lines):
        return DownloadError("pip could not reach its package index (`pip config list` shows which)")
    cause = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    return DownloadError(f"pip could not fetch {requirement} ({cause.removeprefix('ERROR:').strip()[:200]})")
