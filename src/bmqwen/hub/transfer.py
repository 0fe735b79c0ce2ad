"""Download of one file over HTTP, with resume."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bmqwen.errors import DownloadError, StorageError
from bmqwen.hub.source import RemoteFile
from bmqwen.util.progress import Report
from bmqwen.util.storage import storage_errors

_BLOCK = 1 << 20
_ATTEMPTS = 5
_PAUSE = 1.0


@dataclass(frozen=True)
class Body:
    """An answer: its bytes, and the position in the file at which they begin."""

    start: int
    chunks: Iterator[bytes]


def describe(error: BaseException) -> str:
    """An error of a client library in a few words: the system's own, if that is what is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200] if first else type(error).__name__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a client library's error carries."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def download(
    open_at: Callable[[int], AbstractContextManager[Body]],
    file: RemoteFile,
    target: Path,
    report: Report,
    title: str,
) -> None:
    """Bring `target` to the file's full size, then check its hash.

    What an earlier run left at `target` is continued. If the result turns out wrong, and part of it was old,
    it is downloaded once more from the start.

    Args:
        open_at: starts an answer at a position of the file.
        file: what is downloaded.
        target: where to.
        report: is told the bytes that are there.
        title: the source, for messages.

    Raises:
        DownloadError: the network failed for good (`target` stays for the next run), or the hash is wrong
            (`target` is deleted).
        StorageError: `target` could not be written.
    """
    with storage_errors(target):
        resumed = target.exists() and target.stat().st_size > 0
        for _ in range(2 if resumed else 1):
            with target.open("a+b") as out:
                if _complete(open_at, _Unfinished(out, file, target, report), title):
                    return
            target.unlink()
    raise DownloadError(
        f"{file.name} from {title} does not have the size or checksum that it must have and was deleted: "
        "run the command again, or choose another source"
    )


class _Unfinished:
    """The part of a file that is there, and its hash so far."""

    def __init__(self, out: BinaryIO, file: RemoteFile, target: Path, report: Report) -> None:
        self._out, self.file, self._target, self._report = out, file, target, report
        self.have, self._hasher = 0, file.hasher()
        out.seek(0)
        while block := out.read(_BLOCK):
            self._hasher.update(block)
            self.have += len(block)
        report(self.have)

    def restart(self) -> None:
        self._out.truncate(0)
        self.have, self._hasher = 0, self.file.hasher()

    def add(self, chunk: bytes) -> None:
        # Network errors are OSErrors too: this is where those of the disk are told apart.
        with storage_errors(self._target):
            self._out.write(chunk)
        self._hasher.update(chunk)
        self.have += len(chunk)
        self._report(self.have)

    def right(self) -> bool:
        return self.have == self.file.size and self.file.verified_by(self._hasher)


def _complete(
    open_at: Callable[[int], AbstractContextManager[Body]], unfinished: _Unfinished, title: str
) -> bool:
    file, failures = unfinished.file, 0
    while unfinished.have < file.size:
        before = unfinished.have
        error = _receive(open_at, unfinished)
        if error is None:
            continue
        failures = 1 if unfinished.have > before else failures + 1
        status = status_of(error)
        if status == 416:  # what is there is longer than what the source has
            return False
        if status in (401, 403, 404) or failures > _ATTEMPTS:
            raise DownloadError(
                f"{file.name} from {title} broke off after {unfinished.have:,} of {file.size:,} bytes "
                f"({describe(error)}): run the command again to go on from there"
            ) from error
        time.sleep(_PAUSE)
    return unfinished.right()


def _receive(
    open_at: Callable[[int], AbstractContextManager[Body]], unfinished: _Unfinished
) -> Exception | None:
    """Take in one answer; the error that ended it early, if one did."""
    try:
        with open_at(unfinished.have) as body:
            if body.start != unfinished.have:  # the source ignores ranges
                unfinished.restart()
            for chunk in body.chunks:
                unfinished.add(chunk)
                if unfinished.have > unfinished.file.size:
                    return None
    except StorageError:
        raise
    except Exception as error:  # client libraries raise errors of many families
        return error
    return None if unfinished.have == unfinished.file.size else ConnectionError("the answer ended early")
