"""Bytes of a file of weights, read where they are wanted."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.util.closing import Closing

_POINTER = b"version https://git-lfs.github.com/"


class RawFile(Closing):
    """A file open for reading at any position, from several threads.

    Reading copies instead of mapping: pages of a map would count as the process's memory, and a file
    that shrinks under a map kills the process. Where opening several fails, those open close by themselves.

    Raises:
        CheckpointError: the file is missing, no plain file, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            if not path.is_file():
                raise CheckpointError(f"{path} is {'no plain file' if path.exists() else 'missing'}")
            self._descriptor = os.open(path, os.O_RDONLY)
            self.status = os.fstat(self._descriptor)
            if os.pread(self._descriptor, len(_POINTER), 0) == _POINTER:
                raise CheckpointError(
                    f"{path} is only Git LFS's pointer to the file: run `git lfs pull` in its folder, or download it"
                )
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None

    @property
    def size(self) -> int:
        """Length in bytes, when it was opened."""
        return self.status.st_size

    def read(self, offset: int, count: int) -> NDArray[np.uint8]:
        """Read `count` bytes from `offset` on, uint8 [count]. Raises CheckpointError if the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self._truncated(offset + count)
        data = np.empty(count, np.uint8)
        done = 0
        while done < count:
            try:
                got = os.preadv(self._descriptor, [data.data[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}") from None
            if got == 0:
                raise self._truncated(offset + count)
            done += got
        return data

    def fingerprint(self) -> list[str | int]:
        """Return name, size and time of the last change."""
        return [self.path.name, self.status.st_size, self.status.st_mtime_ns]

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def _truncated(self, end: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is truncated: it has {self.size:,} bytes where at least {end:,} are needed; "
            "download it again"
        )
