"""Which of a node's chips a replica gets: the first ones that no other process has."""

from contextlib import suppress

from filelock import FileLock, Timeout

from bmqwen.chip.machine import look
from bmqwen.chip.system import System
from bmqwen.errors import DeviceError
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import storage_errors


class ClaimedChips:
    """Chips that this process has until it ends, however it ends: the system gives its locks back.

    Attributes:
        indices: their device ids.
    """

    def __init__(self, count: int = 1, system: System | None = None) -> None:
        """Claim as many. Raises DeviceError for a node without a working chip, or with too few that are free."""
        working = look(system or System()).working
        if not working:
            raise DeviceError(
                "this node has no working chip, but Ray was told that it has: start its Ray without that "
                "resource, or see what `bmqwen doctor` says there"
            )
        folder = cache_folder("chips")
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[int, FileLock] = {}
        for chip in working:
            if len(self._locks) == count:
                break
            lock = FileLock(folder / f"{chip.index}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                self._locks[chip.index] = lock
        self.indices = tuple(self._locks)
        if (free := len(self._locks)) < count:
            self.release()
            taken = "all" if not free else f"all but {free} of the"
            raise DeviceError(
                f"{taken} {len(working)} chips of this node are taken by other replicas, and this one needs {count}: "
                f"start its Ray with as many of the resource as there are chips, {len(working)}"
            )

    def release(self) -> None:
        """Let others have them."""
        for lock in self._locks.values():
            lock.release()
