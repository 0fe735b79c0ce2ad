"""What files take up on disk."""

import contextlib
import os
from pathlib import Path


def size_below(folder: Path) -> int:
    """Bytes of all files below a folder, which need not exist and may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):  # passes over what vanishes
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total
