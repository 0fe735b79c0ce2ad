"""One process at a time in a folder of the cache; nothing is left of the lock when the work is over."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bmqwen.util.storage import storage_errors

POLL_SECONDS = 0.2
# Held for moments, by whoever takes or removes a lock beside it. A lock's file that is removed while somebody waits
# for it would let two in: so nobody waits for one, and each is removed only under this.
DOOR = ".lock"


@contextmanager
def work_lock(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `folder`, which need not exist, for the time of the body.

    Args:
        folder: whose lock; the folder above it is made.
        on_wait: called once if another process holds it.

    Raises StorageError.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock, door = FileLock(_file(folder)), FileLock(folder.parent / DOOR)
        waited = False
        while not _taken(lock, door):
            if not waited:
                on_wait()
            waited = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        # A cache that was deleted meanwhile has no lock to remove.
        with suppress(OSError), door:
            _file(folder).unlink(missing_ok=True)
            lock.release()
            _sweep(folder.parent)
        lock.release()


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _taken(lock: FileLock, door: FileLock) -> bool:
    with door, suppress(Timeout):
        lock.acquire(timeout=0)
    return lock.is_locked


def _sweep(parent: Path) -> None:
    """Remove locks that nobody holds, of folders that are gone."""
    for left in parent.glob("[!.]*.lock"):
        if not left.with_suffix("").exists():
            with suppress(Timeout, OSError), FileLock(left, timeout=0):
                left.unlink(missing_ok=True)
