"""Reading a small JSON object from a file that may be anything."""

import json
from pathlib import Path

from bmqwen.errors import InputError
from bmqwen.util.text import first_line


def read_json_object(path: Path, error: type[InputError], limit: int = 4 << 20) -> dict[str, object]:
    """Return the JSON object in a file of at most `limit` bytes.

    Raises:
        error: the file is missing, unreadable, too large, or does not hold a JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{path} is missing") from None
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}") from None
    if len(data) > limit:
        raise error(f"{path} is larger than {limit:,} bytes, which no such file is")
    return parse_json_object(data, str(path), error)


def parse_json_object(data: bytes, source: str, error: type[InputError]) -> dict[str, object]:
    """Return the JSON object in `data` (UTF-8). Raises `error`, which names `source`, for anything else."""
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as cause:  # ValueError covers bad UTF-8 and bad JSON
        raise error(f"{source} is not valid JSON ({first_line(cause)})") from None
    if not isinstance(values, dict):
        raise error(f"{source} holds a JSON {type(values).__name__} where an object is expected")
    return values
