"""Download of one file over HTTP, with resume."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bmqwen.errors import DownloadError, StorageError
from bmqwen.hub.source import RemoteFile
from bmqwen.util.progress import Report
from bmqwen.util.storage import storage_errors

if TYPE_CHECKING:
    from httpx2 import Client

READ_SECONDS = 20.0
_BLOCK = 1 << 20
_ATTEMPTS = 5
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Body:
    """An answer: its bytes, the position in the file at which they begin, and the file's size where it says that."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file at an address. Address and headers may hold a password and are never shown.

    Attributes:
        url: its address.
        headers: what has to be sent for it.
        client: what asks; None for a plain one.
        seconds: how long the server may be silent.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: "Client | None" = field(default=None, repr=False)
    seconds: float = READ_SECONDS

    def size(self, seconds: float) -> int | None:
        """Return its bytes; None where nobody says so within `seconds`."""
        import httpx2

        try:
            with self._client() as client:
                answer = client.head(
                    self.url, headers=self._headers(), timeout=seconds, follow_redirects=True
                )
                answer.raise_for_status()
                return int(answer.headers.get("Content-Length", 0)) or None
        # An SSH server answers with what is no HTTP, and a gateway that stands between with errors of its own.
        except (OSError, httpx2.HTTPError, ValueError):
            return None

    @contextmanager
    def open_at(self, start: int) -> Iterator[Body]:
        """Open an answer from a position on; from 0 where the server knows no ranges. Raises what httpx2 does."""
        headers = self._headers(**({"Range": f"bytes={start}-"} if start else {}))
        with (
            self._client() as client,
            client.stream(
                "GET", self.url, headers=headers, timeout=self.seconds, follow_redirects=True
            ) as answer,
        ):
            answer.raise_for_status()
            partial = answer.status_code == 206
            said = answer.headers.get("Content-Range" if partial else "Content-Length", "")
            number = None if "Content-Encoding" in answer.headers else re.search(r"\d+$", said)
            # Without a size of pieces, so that a cut loses nothing of what has arrived.
            yield Body(start if partial else 0, int(number[0]) if number else None, answer.iter_bytes())

    def _client(self) -> AbstractContextManager["Client"]:
        import httpx2

        return nullcontext(self.client) if self.client is not None else httpx2.Client()

    def _headers(self, **more: str) -> dict[str, str]:
        # Compressed answers would make positions in the file meaningless.
        return {"User-Agent": "bmqwen", "Accept-Encoding": "identity", **self.headers, **more}


def describe(error: BaseException) -> str:
    """Put an error of a client library into a few words: the system's own, if that is what is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if (status := _status_of(error)) is not None:
        return f"HTTP status {status}"  # the library's own words would show the address
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200] if first else type(error).__name__


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status that a client library's error carries."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def download(source: WebFile, file: RemoteFile, target: Path, report: Report, title: str) -> None:
    """Bring `target` to the file's full size, then check its hash.

    What an earlier run left at `target` is continued. If the result turns out wrong, and part of it was old,
    it is downloaded once more from the start.

    Args:
        source: where it is.
        file: what is downloaded; a size of 0 is taken from the answer.
        target: where to.
        report: receives the number of bytes that are there.
        title: the source's name, for messages.

    Raises:
        DownloadError: the network failed for good (`target` stays for the next run), or the hash is wrong
            (`target` is deleted).
        StorageError: `target` could not be written.
    """
    with storage_errors(target):
        resumed = target.exists() and target.stat().st_size > 0
        for _ in range(2 if resumed else 1):
            with target.open("a+b") as out:
                if _complete(source, _Unfinished(out, file, target, report), title):
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
        self.size: int | None = file.size or None
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
        return self.have == self.size and self.file.verified_by(self._hasher)


def _complete(source: WebFile, unfinished: _Unfinished, title: str) -> bool:
    failures = 0
    while unfinished.size is None or unfinished.have < unfinished.size:
        before = unfinished.have
        error = _receive(source, unfinished)
        if error is None:
            continue
        failures = 1 if unfinished.have > before else failures + 1
        status = _status_of(error)
        if status == 416:  # what is there is all that the source has, or longer
            unfinished.size = unfinished.size or unfinished.have
            return unfinished.file.sha256 is not None and unfinished.right()
        if status in (401, 403, 404) or failures > _ATTEMPTS:
            of = f" of {unfinished.size:,}" if unfinished.size else ""
            raise DownloadError(
                f"{unfinished.file.name} from {title} broke off after {unfinished.have:,}{of} bytes "
                f"({describe(error)}): run the command again to resume"
            ) from error
        time.sleep(_PAUSE)
    return unfinished.right()


def _receive(source: WebFile, unfinished: _Unfinished) -> Exception | None:
    """Take in one answer; return the error that ended it early, if one did."""
    try:
        with source.open_at(unfinished.have) as body:
            if body.start != unfinished.have:  # the source ignores ranges
                unfinished.restart()
            unfinished.size = unfinished.size or body.total
            for chunk in body.chunks:
                unfinished.add(chunk)
                if unfinished.size is not None and unfinished.have > unfinished.size:
                    return None
    except StorageError:
        raise
    except Exception as error:  # client libraries raise errors of many families
        return error
    unfinished.size = unfinished.have if unfinished.size is None else unfinished.size
    return None if unfinished.have == unfinished.size else ConnectionError("the answer ended early")
