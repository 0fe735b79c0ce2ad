"""What files take up on disk."""

import contextlib
import os
from pathlib import Path


def size_below(folder: Path) -> int:
    """Return the bytes of all files below a folder, which need not exist and may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):  # passes over what vanishes
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total


def remove_empty_folders(folder: Path) -> None:
    """Remove the empty folders below a folder, and the folder itself if nothing else is in it."""
    for root, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty, or gone
            Path(root).rmdir()
