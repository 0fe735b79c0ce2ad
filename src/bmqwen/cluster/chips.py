"""Which of a node's chips a replica gets: the first one that no other process has."""

from contextlib import suppress

from filelock import FileLock, Timeout

from bmqwen.chip.machine import look
from bmqwen.chip.system import System
from bmqwen.errors import DeviceError
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import storage_errors


class ClaimedChip:
    """A chip that this process has until it ends, however it ends: the system gives its lock back.

    Attributes:
        index: its device id.
    """

    def __init__(self, system: System | None = None) -> None:
        """Claim one. Raises DeviceError for a node without a working chip, or whose chips are all taken."""
        working = look(system or System()).working
        if not working:
            raise DeviceError(
                "this node has no working chip, but Ray was told that it has: start its Ray without that "
                "resource, or see what `bmqwen doctor` says there"
            )
        folder = cache_folder("chips")
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for chip in working:
            lock = FileLock(folder / f"{chip.index}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                self.index, self._lock = chip.index, lock
                return
        raise DeviceError(
            f"all {len(working)} chips of this node are taken by other replicas: start its Ray with "
            f"as many of the resource as there are chips, {len(working)}"
        )

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()
