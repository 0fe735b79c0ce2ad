"""Large pages for loaded weights."""

import mmap
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bmqwen.runtime.large_pages import _LEAST, LARGE, LargePages, _blocks


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


def in_large_pages() -> int:
    """Bytes of this process that are."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_memory_is_moved_while_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmqwen.runtime.large_pages._IDLE", 0.05)
    # NumPy puts its own arrays there.
    memory = mmap.mmap(-1, 32 * LARGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    content = np.random.default_rng(1).bytes(len(memory))
    memory[:] = content
    there = in_large_pages()
    with LargePages.computing():
        pages = LargePages(_LEAST)
        time.sleep(0.3)
        assert in_large_pages() == there
    pages._thread.join(60)
    assert not pages._thread.is_alive()
    assert memory[:] == content
    if in_large_pages() == there:
        pytest.skip("this system gives no large pages")
    assert in_large_pages() >= there + 30 * LARGE


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_closing_ends_it() -> None:
    with LargePages.computing():
        pages = LargePages(_LEAST)
        pages.close()
        pages._thread.join(10)
        assert not pages._thread.is_alive()
    assert not LargePages(_LEAST - 1)._thread.is_alive()
