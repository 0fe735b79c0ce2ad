"""API keys: read once, compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from bmqwen.errors import InputError, KeyRefusedError

SHORTEST = 8
_LONGEST_FILE = 1 << 20


class ApiKeys:
    """The keys that clients may use. Only their hashes are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take the keys; none: everybody is welcome. Raises InputError for one that cannot be sent or is too short."""
        self._digests = [_digest(_check(key).encode()) for key in keys]

    @classmethod
    def read(cls, keys: Iterable[str], file: Path | None) -> "ApiKeys":
        """Read the keys of a file with one per line (# begins a comment), and add them to those given.

        Raises InputError for a file that cannot be read or has none.
        """
        read: list[str] = []
        if file is not None:
            try:
                if file.stat().st_size > _LONGEST_FILE:
                    raise InputError(f"{file} is too large for a file of API keys")
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise InputError(f"the file of API keys {file} cannot be read: {reason}") from error
            for number, line in enumerate(lines, 1):
                if (key := line.strip()) and not key.startswith("#"):
                    _check(key, f" ({file}, line {number})")
                    read.append(key)
            if not read:
                raise InputError(f"{file} has no API key: write one per line")
        return cls([*keys, *read])

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: bytes | None) -> str:
        """Return who sent this header: a name for the key, "" where none are needed.

        Raises KeyRefusedError for a missing or wrong key.
        """
        if not self._digests:
            return ""
        if not authorization:
            raise KeyRefusedError("this server needs an API key: send the header Authorization: Bearer KEY")
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        # All are compared, whichever fits.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise KeyRefusedError("the API key is wrong; ask the person who runs this server for one")
        return digest.hex()[:16]


def _check(key: str, place: str = "") -> str:
    """Return a key. Raises InputError, which must not show it, for one that cannot be sent or is too short."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"an API key must consist of printable ASCII characters without spaces{place}")
    if len(key) < SHORTEST:
        raise InputError(f"an API key must have at least {SHORTEST} characters{place}")
    return key


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
