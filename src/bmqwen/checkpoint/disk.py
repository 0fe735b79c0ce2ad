"""The disk that downloads go to: what is on it, and what to say when it refuses."""

import contextlib
import errno
import os
from pathlib import Path

from bmqwen.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def size_below(folder: Path) -> int:
    """Bytes of all files below a folder, which need not exist and may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total


def storage_error(error: OSError, folder: Path, needed: int | None = None) -> StorageError:
    """The error to raise when writing below `folder` failed; `needed` is in bytes."""
    amount = f", where {needed:,} bytes are needed" if needed else ""
    if error.errno in _FULL:
        return StorageError(
            f"{folder} is full{amount}: free some space, or name another folder in BMQWEN_CACHE"
        )
    reason = error.strerror or type(error).__name__
    return StorageError(f"cannot write to {folder}{amount} ({reason}): set BMQWEN_CACHE to another folder")
