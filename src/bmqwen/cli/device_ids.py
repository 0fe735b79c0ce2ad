"""The value of --device: ids of chips."""

from bmqwen.errors import InputError

MOST = 4096


def device_ids(text: str) -> list[int]:
    """The ids in "0" or "0,1,2". Raises InputError for anything else, and for an id that stands there twice."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part[:9]) < MOST for part in parts):
        raise InputError(f"--device {text[:40]!r} is no list of chips: write a number, or several as in 0,1")
    ids = [int(part) for part in parts]
    if len(set(ids)) < len(ids):
        raise InputError(f"--device {text[:40]} names a chip twice")
    return ids


def one_device(text: str) -> int:
    """The one id. Raises InputError for several."""
    ids = device_ids(text)
    if len(ids) > 1:
        raise InputError(f"--device {text[:40]}: this command uses one chip, name one of them")
    return ids[0]
