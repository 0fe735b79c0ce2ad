"""A conversation as a JSON file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmqwen.errors import InputError
from bmqwen.util.storage import write_file

_FORMAT, _VERSION = "bmqwen conversation", 1
_LARGEST = 100_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """The content of a file: turns as (user, answer, thoughts), and how many of the oldest the model no longer sees."""

    system: str | None
    turns: list[tuple[str, str, str]]
    dropped: int


def write(path: Path, transcript: Transcript) -> None:
    """Write a transcript, whole or not at all. Raises StorageError if that fails."""
    content: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "system": transcript.system,
        "dropped": transcript.dropped,
        "turns": [
            {"user": user, "answer": answer} | ({"thoughts": thoughts} if thoughts else {})
            for user, answer, thoughts in transcript.turns
        ],
    }
    content["sha256"] = _digest(content)
    write_file(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))


def read(path: Path) -> Transcript:
    """Read what `write` has written. Raises InputError, naming the file, for anything else."""
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is too large for a saved conversation")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a saved conversation: it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path} is not a saved conversation of bmqwen")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path} has version {content.get('version')!r}, but this bmqwen reads {_VERSION}; update it"
        )
    digest = content.pop("sha256", None)
    if digest != _digest(content):
        raise InputError(f"{path} was changed or damaged after it was saved (its sha256 differs)")
    system, dropped, turns = content.get("system"), content.get("dropped"), content.get("turns")
    if (
        (system is None or isinstance(system, str))
        and isinstance(turns, list)
        and all(isinstance(turn, dict) and turn.keys() - {"thoughts"} == {"user", "answer"} for turn in turns)
        and all(isinstance(text, str) for turn in turns for text in turn.values())
        and isinstance(dropped, int)
        and not isinstance(dropped, bool)
        and 0 <= dropped <= len(turns)
    ):
        return Transcript(
            system, [(turn["user"], turn["answer"], turn.get("thoughts", "")) for turn in turns], dropped
        )
    raise InputError(f"{path} is not a saved conversation of bmqwen: a field has the wrong type")


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
