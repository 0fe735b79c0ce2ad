"""Where bmqwen keeps what it can fetch or make again."""

import os
from pathlib import Path

import platformdirs


def cache_folder(part: str) -> Path:
    """The folder of one kind of things, below BMQWEN_CACHE or the user's cache folder. It may not exist."""
    base = os.environ.get("BMQWEN_CACHE") or platformdirs.user_cache_dir("bmqwen")
    return Path(base).expanduser().absolute() / part
