"""Large pages for loaded weights."""

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.runtime.huge_pages import HUGE, _blocks, heap_of_huge_pages, use_huge_pages


def test_only_whole_pages_of_anonymous_memory_are_taken() -> None:
    lines = [
        "7f0000001000-7f0000a01000 rw-p 00000000 00:00 0 ",
        "7f0001000000-7f0001200000 rw-p 00000000 00:00 0                          [heap]",
        "7f0002000000-7f0002400000 r--p 00000000 00:00 0 ",
        "7f0003000000-7f0003400000 rw-p 00000000 fd:01 42 /usr/lib/libc.so.6",
        "7f0004001000-7f0004200000 rw-p 00000000 00:00 0 ",
        "7f0005000000-7f0005400000 rw-p 00000000 00:00 0                          [stack]",
    ]
    assert _blocks(lines) == [(0x7F0000200000, 0x7F0000A00000), (0x7F0001000000, 0x7F0001200000)]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_contents_stay() -> None:
    values = np.random.default_rng(1).integers(0, 256, 8 * HUGE, dtype=np.uint8)
    before = values.copy()
    use_huge_pages()
    assert np.array_equal(values, before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_blocks_come_from_the_heap_only_inside() -> None:
    def in_heap(array: NDArray[np.uint8]) -> bool:
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "[heap]" in line]
        parts = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
        return any(start <= array.ctypes.data < stop for start, stop in parts)

    with heap_of_huge_pages(96 << 20) as placed:
        assert placed
        inside = np.ones(64 << 20, np.uint8)
        assert in_heap(inside)
    # Larger than what may be free in the heap of a process that has done other work; it is not touched.
    assert not in_heap(np.empty(4 << 30, np.uint8))


def test_another_thread_is_told_that_its_heap_is_not_meant() -> None:
    def ask() -> bool:
        with heap_of_huge_pages(1 << 20) as placed:
            return placed

    with ThreadPoolExecutor(1) as beside:
        assert not beside.submit(ask).result()
