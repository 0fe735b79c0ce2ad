"""Large pages for what is read over and over: weights."""

import ctypes
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HUGE = 2 << 20
# Fixed by Linux: allow large pages here; make them now (since Linux 6.1, else refused and nothing happens).
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
# Options of glibc's mallopt, and the largest block for which it would use its heap by itself.
_TRIM_THRESHOLD, _TOP_PAD, _MAPPED_FROM, _MOST_MAPPED = -1, -2, -3, -4
_LARGEST_MAPPED = 32 << 20
# Private memory of no file, that may be written: what an allocator gets.
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0\s*(\[heap\])?\s*$")


@contextmanager
def heap_of_huge_pages(size: int) -> Iterator[bool]:
    """Let the main thread's allocations inside of the `with` block, `size` bytes or less, begin in pages of 2 MB.

    Moving them there afterwards, as `use_huge_pages` does, takes three times as long as filling them. It works with
    glibc, whose heap is extended at once by that much, and in the main thread; elsewhere nothing happens.
    Yields whether it works here.
    """
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if (
        sys.platform != "linux"
        or mallopt is None
        or threading.current_thread() is not threading.main_thread()
    ):
        yield False
        return
    mallopt(_TRIM_THRESHOLD, _LARGEST_MAPPED)
    mallopt(_MOST_MAPPED, 0)
    mallopt(_TOP_PAD, min(size, 2**31 - 1))
    try:
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
        libc.free.argtypes = (ctypes.c_void_p,)
        # More than is free in the heap as it is.
        libc.free(libc.malloc(_LARGEST_MAPPED))
        blocks = _blocks(line for line in _maps() if "[heap]" in line)
        refused = [_advise()(start, stop - start, _MADV_HUGEPAGE) for start, stop in blocks]
        yield bool(refused) and not any(refused)
    finally:
        # What glibc arrives at by itself, once large blocks were freed.
        mallopt(_TOP_PAD, 128 << 10)
        mallopt(_MOST_MAPPED, 65536)
        mallopt(_MAPPED_FROM, _LARGEST_MAPPED)


def use_huge_pages() -> int:
    """Put this process's large blocks of memory into pages of 2 MB, where the system can; contents do not change.

    Returns:
        Bytes of the blocks for which that worked; 0 on systems other than Linux, or where it is forbidden.
    """
    if sys.platform != "linux":
        return 0
    advise = _advise()
    done = 0
    for start, stop in _blocks(_maps()):
        if not advise(start, stop - start, _MADV_HUGEPAGE) and not advise(
            start, stop - start, _MADV_COLLAPSE
        ):
            done += stop - start
    return done


def _advise() -> Any:
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text(errors="replace").splitlines()


def _blocks(maps: Iterable[str]) -> list[tuple[int, int]]:
    """Start and end of anonymous memory, cut to whole pages of 2 MB, from the lines of /proc/PID/maps."""
    found = []
    for line in maps:
        if match := _ANONYMOUS.match(line):
            start, stop = -(-int(match[1], 16) // HUGE) * HUGE, int(match[2], 16) // HUGE * HUGE
            if start < stop:
                found.append((start, stop))
    return found
