"""Large pages for what is read over and over: weights."""

import ctypes
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LARGE = 2 << 20
# Smaller models lie in the processor's caches.
_LEAST = 64 << 20
# So much is moved at a time, within 0.1 s; what is asked meanwhile waits for it.
_PIECE = 16 * LARGE
# Nobody has asked for anything for so many seconds.
_IDLE = 1.0
# Fixed by Linux: allow large pages here; make them now (since Linux 6.1, else refused and nothing happens).
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
# Private memory of no file, that may be written: what an allocator gets.
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0\s*(\[heap\])?\s*$")


class LargePages:
    """Puts this process's large blocks of memory into pages of 2 MB, piece by piece, while nothing is computed.

    Not while loading: a virtual machine's host takes free memory back in just such pages, and needs 0.25 s to give 100
    MB of them anew. Contents do not change. Nothing happens where it is forbidden, and on systems other than Linux.
    """

    # Of the whole process: how many computations are under way, and when the last one ended.
    _lock = threading.Lock()
    _under_way = 0
    _last_end = 0.0

    def __init__(self, size: int) -> None:
        """Begin, in a thread of its own, with the memory that there is now, if weights of `size` bytes are worth it."""
        LargePages._last_end = time.monotonic()
        self._closed = False
        self._thread = threading.Thread(target=self._move, name="large pages", daemon=True)
        if size >= _LEAST and sys.platform == "linux":
            self._thread.start()

    @classmethod
    @contextmanager
    def computing(cls) -> Iterator[None]:
        """Nothing is moved inside of the `with` block, nor right after it."""
        with cls._lock:
            cls._under_way += 1
        try:
            yield
        finally:
            with cls._lock:
                cls._under_way -= 1
                cls._last_end = time.monotonic()

    def close(self) -> None:
        """Stop; what was moved stays."""
        self._closed = True

    def _move(self) -> None:
        advise = ctypes.CDLL(None, use_errno=True).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, stop in _blocks(Path("/proc/self/maps").read_text(errors="replace").splitlines()):
            for piece in range(start, stop, _PIECE):
                while not self._closed and (wait := self._wait()) > 0:
                    time.sleep(wait)
                size = min(_PIECE, stop - piece)
                if self._closed:
                    return
                # Some memory cannot be moved, and some systems refuse all of it.
                if not advise(piece, size, _MADV_HUGEPAGE):
                    advise(piece, size, _MADV_COLLAPSE)

    def _wait(self) -> float:
        """Seconds until it may be idle long enough."""
        return _IDLE if self._under_way else self._last_end + _IDLE - time.monotonic()


def _blocks(maps: Iterable[str]) -> list[tuple[int, int]]:
    """Start and end of anonymous memory, cut to whole pages of 2 MB, from the lines of /proc/PID/maps."""
    found = []
    for line in maps:
        if match := _ANONYMOUS.match(line):
            start, stop = -(-int(match[1], 16) // LARGE) * LARGE, int(match[2], 16) // LARGE * LARGE
            if start < stop:
                found.append((start, stop))
    return found
