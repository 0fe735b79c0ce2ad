"""Where bmqwen keeps what it can fetch or make again."""

import os
from pathlib import Path

import platformdirs


def named_toolchain() -> Path | None:
    """Return the folder of the compiler that BMQWEN_TOOLCHAIN names."""
    named = os.environ.get("BMQWEN_TOOLCHAIN")
    return Path(named).expanduser().absolute() if named else None


def cache_folder(part: str) -> Path:
    """The folder of one kind of things, below BMQWEN_CACHE or the user's cache folder. It may not exist."""
    base = os.environ.get("BMQWEN_CACHE") or platformdirs.user_cache_dir("bmqwen")
    return Path(base).expanduser().absolute() / part
