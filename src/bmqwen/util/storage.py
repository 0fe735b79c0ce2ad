"""Writing without leaving halves: beside and rename, with storage errors in words."""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bmqwen.errors import InputError, StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a StorageError that names `path` and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"no space left while writing {path}: free some disk space and try again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"cannot write {path}: {error.strerror}; mend its permissions or choose another folder "
                "(BMQWEN_CACHE names the cache)"
            ) from error
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def new_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which appears as `final` only when the body ends well.

    What a process that was killed left beside `final` is removed first.

    Args:
        final: where the folder is to appear.
        replace: an existing folder at `final` is replaced; else it is an InputError.

    Raises:
        InputError: `final` exists and `replace` is false, also if it has appeared meanwhile.
        StorageError: the disk is full or the place cannot be written.
    """
    _refuse_existing(final, replace=replace)
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        beside, lock = _locked_folder(final)
        try:
            yield beside
            _refuse_existing(final, replace=replace)
            if final.exists():
                # Renamed away first, so that there is never a moment with a half-removed folder in place.
                old = _beside(final, "old")
                final.rename(old)
                beside.rename(final)
                shutil.rmtree(old, ignore_errors=True)
            else:
                beside.rename(final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            os.close(lock)


def _beside(final: Path, ending: str) -> Path:
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.{ending}")


def _refuse_existing(final: Path, *, replace: bool) -> None:
    if final.exists() and not replace:
        raise InputError(f"{final} exists already: remove it or choose another name")


def _locked_folder(final: Path) -> tuple[Path, int]:
    """A new folder beside `final` and an open file that shows others that somebody works in it."""
    while True:
        beside = _beside(final, "part")
        beside.mkdir()
        # Another process may take a folder that is not locked yet for a leftover.
        with suppress(FileNotFoundError):
            lock = os.open(beside, os.O_RDONLY | os.O_DIRECTORY)
            if _lock(lock) is not False and beside.exists():
                return beside, lock
            os.close(lock)


def _lock(folder: int) -> bool | None:
    """Whether the open folder was free and is now locked; None: its file system has no locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(final: Path) -> None:
    """Remove what killed processes left beside `final`: folders that nobody has locked."""
    for ending in ("part", "old"):
        for left in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}.{ending}"):
            with suppress(OSError):
                folder = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    if _lock(folder):
                        shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(folder)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all. Raises StorageError."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def require_free(folder: Path, needed: int, purpose: str) -> None:
    """Raise StorageError unless the disk below `folder` has `needed` bytes free."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    with storage_errors(folder):
        free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{purpose} needs {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are free: "
            "free some space or choose a larger disk (BMQWEN_CACHE names the cache)"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
