"""Where bmqwen keeps what it can download or make again, and what a model is called by where it lies."""

import os
from pathlib import Path

import platformdirs


def named_toolchain() -> Path | None:
    """Return the folder of the compiler that BMQWEN_TOOLCHAIN names."""
    named = os.environ.get("BMQWEN_TOOLCHAIN")
    return Path(named).expanduser().absolute() if named else None


def cache_folder(part: str) -> Path:
    """Return the folder of one kind of things, below BMQWEN_CACHE or the user's cache folder. It may not exist."""
    base = os.environ.get("BMQWEN_CACHE") or platformdirs.user_cache_dir("bmqwen")
    return Path(base).expanduser().absolute() / part


def model_name(path: Path) -> str:
    """Return what to call the model in a folder or file."""
    # Links are not followed: in a hub's cache they lead to files that are called by their hash.
    path = Path(os.path.normpath(path.absolute()))
    if path.parent.name == "snapshots":  # .../models--OWNER--NAME/snapshots/REVISION
        return path.parents[1].name.rpartition("--")[2]
    return path.name
