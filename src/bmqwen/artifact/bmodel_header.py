"""The head of a bmodel's file, checked before a library of the vendor's sees it."""

import struct
from pathlib import Path

from bmqwen.errors import BundleError

# MODEL_HEADER_T: magic, its own size, the description's, the data's (32 bits, wrapped beyond 4 GiB).
HEADER = struct.Struct("<4I48x")
MAGIC = 0xFF55AAEE


def check_bmodel(path: Path) -> None:
    """Raise BundleError unless the file starts like a bmodel and is as long as it says.

    libbmrt would end the process on some damaged files.
    """
    read_head(path)


def read_head(path: Path) -> tuple[int, int]:
    """Where the description of the nets begins in the file, and its bytes; errors as of `check_bmodel`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if len(head) < HEADER.size:
        raise BundleError(f"{path} is no bmodel: it has only {size} bytes")
    magic, header, description, data = HEADER.unpack(head)
    if magic != MAGIC:
        raise BundleError(f"{path} is no bmodel: it starts with {head[:4].hex()}")
    # The data's size is stored in 32 bits.
    expected = header + description + data
    if size < expected or (size - expected) % (1 << 32):
        raise BundleError(f"{path} is truncated or damaged: {size:,} bytes instead of {expected:,}")
    return header, description
