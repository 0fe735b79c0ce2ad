"""Large pages for loaded weights."""

import sys

import numpy as np
import pytest

from bmqwen.runtime.cpu import HUGE, _blocks, use_huge_pages


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
