"""What the vendor's libraries print from C, kept out of a program's own output."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def c_output_on_stderr() -> Iterator[None]:
    """Send what C code prints on standard output meanwhile to standard error: the other one may be read by a script."""
    libc = ctypes.CDLL(None)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        saved = os.dup(1)
    except OSError:  # closed
        yield
        return
    libc.fflush(None)
    os.dup2(2, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
