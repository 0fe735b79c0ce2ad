"""Conversations that outlive their engine: its cache in a folder, for the next engine of the same model."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bmqwen.errors import StorageError
from bmqwen.generate.conversation_cache import ConversationCache, Entry
from bmqwen.runtime.base import SavedCache
from bmqwen.util.storage import write_file

LOG = logging.getLogger("bmqwen.serve")
_NUMBERS = re.compile(r"[<|][fiu][1248]")
_LONGEST_HEADER = 1 << 24


class KeptConversations:
    """A folder with a file for each conversation: a line of JSON, then its K/V as bytes.

    Nobody but their user can read the files; they say whose conversation it is, so that nobody else gets it.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity` names model, precision and runtime: K/V of any other are of no use."""
        self._folder, self._identity = folder, identity

    def read(self, cache: ConversationCache) -> int:
        """Take conversations back, as many as the cache holds, the newest if not all; returns how many.

        Those of another model are left where they are, damaged ones are removed.
        """
        found = 0
        for path in sorted(self._folder.glob("*.conversation"), key=lambda file: file.stat().st_mtime):
            try:
                entry = self._read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                LOG.warning("%s cannot be used and is removed: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            if entry is not None:
                cache.put(entry.owner, entry.tokens.tolist(), entry.kept, entry.weight)
                found += 1
        return found

    def write(self, cache: ConversationCache) -> int:
        """Put all conversations of a cache in place of those that are there; returns how many.

        Raises StorageError if that is not possible. Conversations with the state of recurrent layers are left out.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            old = set(self._folder.glob("*.conversation"))
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error.strerror or error}") from error
        kept = [entry for entry in cache.entries if not entry.kept.states]
        before = os.umask(0o077)
        try:
            for entry in kept:
                path = self._path(entry)
                old.discard(path)
                if not path.exists():
                    write_file(path, self._content(entry))
        finally:
            os.umask(before)
        for path in old:
            if self._header(path).get("identity") == self._identity:
                path.unlink(missing_ok=True)
        return len(kept)

    def _path(self, entry: Entry[SavedCache]) -> Path:
        whose = f"{self._identity}\0{entry.owner}\0".encode()
        return (
            self._folder / f"{hashlib.sha256(whose + entry.tokens.tobytes()).hexdigest()[:32]}.conversation"
        )

    def _content(self, entry: Entry[SavedCache]) -> bytes:
        saved, rows = entry.kept, np.ascontiguousarray(entry.kept.rows)
        data = rows.tobytes()
        header = {
            "identity": self._identity,
            "owner": entry.owner,
            "tokens": entry.tokens.tolist(),
            "position": saved.position,
            "told": list(saved.tokens),
            "numbers": rows.dtype.str,
            "shape": rows.shape,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        return json.dumps(header).encode() + b"\n" + data

    def _read(self, path: Path) -> Entry[SavedCache] | None:
        """None for another model's. Raises ValueError and its kin for a damaged file."""
        header = self._header(path)
        if header["identity"] != self._identity:
            return None
        data = path.read_bytes().partition(b"\n")[2]
        if hashlib.sha256(data).hexdigest() != header["sha256"] or not _NUMBERS.fullmatch(header["numbers"]):
            raise ValueError("it was changed or is not complete")
        rows = np.frombuffer(data, np.dtype(header["numbers"])).reshape(header["shape"])
        saved = SavedCache(int(header["position"]), rows, tuple(map(int, header["told"])))
        return Entry(str(header["owner"]), np.asarray(header["tokens"], np.int32), saved, saved.nbytes)

    def _header(self, path: Path) -> Mapping[str, Any]:
        try:
            with path.open("rb") as file:
                header = json.loads(file.readline(_LONGEST_HEADER))
        except (OSError, ValueError):
            return {}
        return header if isinstance(header, dict) else {}
