"""Writing without leaving halves, one process at a time: locks, beside and rename, errors in words; sizes on disk."""

import errno
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bmqwen.errors import InputError, StorageError
from bmqwen.util.paths import cache_folder
from bmqwen.util.text import size_text

POLL_SECONDS = 0.2


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
            named = " (BMQWEN_CACHE names the cache)" if _is_cached(path) else ""
            raise StorageError(
                f"cannot write {path}: {error.strerror}; fix its permissions or choose another folder{named}"
            ) from error
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _is_cached(path: Path) -> bool:
    return path.absolute().is_relative_to(cache_folder("."))


@contextmanager
def path_lock(path: Path, on_wait: Callable[[], None] | None = None, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes away from `path`, which need not exist, while the body runs: `PATH.lock`, gone afterwards.

    Yields whether this process has it, which is always so unless `wait` is false.

    Args:
        path: whose lock; the folder above it is made.
        on_wait: called once if another process holds the lock.
        wait: until the lock is free.

    Raises StorageError.
    """
    file = path.with_name(f"{path.name}.lock")
    lock = FileLock(file, poll_interval=POLL_SECONDS)
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where no file can be made, as in /proc, the lock would wait for it for ever.
        with file.open("ab"):
            pass
        with suppress(Timeout):
            lock.acquire(timeout=0)
        if wait and not lock.is_locked:
            if on_wait:
                on_wait()
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            # Removed while it is held: who waits for a file that is gone takes the next one. A cache that was deleted
            # meanwhile has none.
            with suppress(OSError):
                file.unlink()
            lock.release()


@contextmanager
def new_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill, which appears as `final` only when the body ends well.

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
        for ending in ("part", "old"):
            sweep(final.parent, f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}.{ending}")
        beside = _beside(final, "part")
    with path_lock(beside), storage_errors(final):
        try:
            beside.mkdir()
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


def _beside(final: Path, ending: str) -> Path:
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.{ending}")


def _refuse_existing(final: Path, *, replace: bool) -> None:
    if final.exists() and not replace:
        raise InputError(f"{final} exists already: remove it or choose another name")


def sweep(folder: Path, pattern: str) -> None:
    """Remove the folders in `folder` that killed processes left, and their locks: what matches and nobody holds."""
    for left in {path.with_suffix("") if path.suffix == ".lock" else path for path in folder.glob(pattern)}:
        with path_lock(left, wait=False) as abandoned:
            if abandoned:
                shutil.rmtree(left, ignore_errors=True)


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


def require_free(folder: Path, needed: int, purpose: str, variable: str = "BMQWEN_CACHE") -> None:
    """Raise StorageError unless the disk below `folder`, a place that `variable` names, has `needed` bytes free."""
    with storage_errors(folder):
        free = shutil.disk_usage(existing_above(folder)).free
    if free < needed:
        elsewhere = variable == "BMQWEN_CACHE" and not _is_cached(folder)
        named = "" if elsewhere else f" ({variable} names the cache)"
        raise StorageError(
            f"{purpose} needs {size_text(needed)} in {folder}, but only {size_text(free)} are free: "
            f"free some space or choose a larger disk{named}"
        )


def existing_above(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_below(folder: Path) -> int:
    """Return the bytes of all files below a folder, which need not exist and may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):  # passes over what vanishes
        for name in names:
            with suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total


def remove_empty_folders(folder: Path) -> None:
    """Remove the empty folders below a folder, and the folder itself if nothing else is in it."""
    for root, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty, or gone
            Path(root).rmdir()
