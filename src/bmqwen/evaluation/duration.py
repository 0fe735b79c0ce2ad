"""How long reading takes, said before it begins: from the bytes of texts and the speed of this machine."""

import os
import time

import numpy as np

# Of Qwen's tokenizers, for English, Chinese and code alike: 3.5 to 4.5.
_BYTES_PER_TOKEN = 4
_SIDE = 1024


def guessed_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return len(text.encode()) // _BYTES_PER_TOKEN


def reading_seconds(parameters: int, tokens: int, threads: int | None = None) -> float:
    """Return about how long models of so many parameters together take to read so many tokens each.

    A token takes two operations a parameter, at the speed of a product of float32 matrices on this machine now.
    """
    cores = len(os.sched_getaffinity(0))
    share = min(1.0, (threads or cores) / cores)
    matrix = np.ones((_SIDE, _SIDE), np.float32)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        took.append(time.perf_counter() - began)
    return parameters * tokens * min(took) / (share * _SIDE**3)
