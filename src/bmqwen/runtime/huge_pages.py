"""Large pages for weights that were loaded: fewer look-ups of addresses while every token reads all of them."""

import ctypes
import re
import sys
from collections.abc import Iterable
from pathlib import Path

HUGE = 2 << 20
# Fixed by Linux: allow large pages here; make them now (since Linux 6.1, else refused and nothing happens).
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
# Private memory of no file, that may be written: what an allocator gets.
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0\s*(\[heap\])?\s*$")


def use_huge_pages() -> int:
    """Put this process's large blocks of memory into pages of 2 MB, where the system can; contents do not change.

    Returns:
        Bytes of the blocks for which that worked; 0 on systems other than Linux, or where it is forbidden.
    """
    if sys.platform != "linux":
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    done = 0
    for start, stop in _blocks(Path("/proc/self/maps").read_text(errors="replace").splitlines()):
        if not advise(start, stop - start, _MADV_HUGEPAGE) and not advise(
            start, stop - start, _MADV_COLLAPSE
        ):
            done += stop - start
    return done


def _blocks(maps: Iterable[str]) -> list[tuple[int, int]]:
    """Start and end of anonymous memory, cut to whole pages of 2 MB, from the lines of /proc/PID/maps."""
    found = []
    for line in maps:
        if match := _ANONYMOUS.match(line):
            start, stop = -(-int(match[1], 16) // HUGE) * HUGE, int(match[2], 16) // HUGE * HUGE
            if start < stop:
                found.append((start, stop))
    return found
