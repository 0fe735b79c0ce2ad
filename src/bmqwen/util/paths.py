"""Where bmqwen keeps what it can download or make again, and what a model is called by where it lies."""

import os
import re
from pathlib import Path

import platformdirs

# One of several files that `llama-gguf-split` cut a model into.
_GGUF_PART = re.compile(r"(?P<whole>.+)-\d{5}-of-(?P<count>\d{5})(?P<end>\.gguf)", re.IGNORECASE)

# GGUF files that lie beside a model: what reads pictures, and how much each weight matters.
# Models that were quantised with such a matrix have it in the middle of their names.
_BESIDE = re.compile(r"(.*[-._])?mmproj[-._].*|imatrix[-._].*|.*[-._]imatrix\.gguf", re.IGNORECASE)


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
    return whole_gguf(path.name)


def whole_gguf(name: str) -> str:
    """Return what a GGUF file would be called if it were not one of several parts; any other name as it is."""
    part = _GGUF_PART.fullmatch(name)
    return part["whole"] + part["end"] if part else name


def gguf_parts(name: str) -> list[str]:
    """Return the names of all files of the model that a GGUF file is a part of, the first one first; mostly itself."""
    part = _GGUF_PART.fullmatch(name)
    if part is None or part["count"] == "00000":
        return [name]
    count = int(part["count"])
    return [f"{part['whole']}-{n:05d}-of-{count:05d}{part['end']}" for n in range(1, count + 1)]


def is_model_gguf(name: str) -> bool:
    """Whether a GGUF file may hold a model, by its name."""
    return _BESIDE.fullmatch(name) is None


def gguf_variant(name: str) -> str:
    """Return how a GGUF file was quantised, by the last part of its name: "Q4_K_M"."""
    return re.split("[-.]", f"-{whole_gguf(name)}")[-2]
