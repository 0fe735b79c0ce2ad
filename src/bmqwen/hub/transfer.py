"""Download of one file over HTTP, with resume."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bmqwen.errors import DownloadError, StorageError
from bmqwen.hub.source import RemoteFile
from bmqwen.util.progress import Report
from bmqwen.util.storage import storage_errors

if TYPE_CHECKING:
    from httpx2 import Client, Response

READ_SECONDS = 20.0
_BLOCK = 1 << 20
_ATTEMPTS = 5
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file at an address. Address and headers may hold a password and are never shown.

    Attributes:
        client: what asks; None for a plain one.
        seconds: how long the server may be silent.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: "Client | None" = field(default=None, repr=False)
    seconds: float = READ_SECONDS

    @contextmanager
    def ask(self, method: str, **more: str) -> Iterator["Response"]:
        """Open the answer to a request with some `more` headers. Raises what httpx2 does, for bad statuses too."""
        import httpx2

        # Compressed answers would make positions in the file meaningless.
        headers = {"User-Agent": "bmqwen", "Accept-Encoding": "identity", **self.headers, **more}
        with (
            nullcontext(self.client) if self.client is not None else httpx2.Client() as client,
            client.stream(
                method, self.url, headers=headers, timeout=self.seconds, follow_redirects=True
            ) as answer,
        ):
            answer.raise_for_status()
            yield answer


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
        file: what is downloaded; a size of 0 is taken from the answer.
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
                if _Download(source, file, out, report, title).run():
                    return
            target.unlink()
    raise DownloadError(
        f"{file.name} from {title} does not have the size or checksum that it must have and was deleted: "
        "run the command again, or choose another source"
    )


class _Download:
    """The part of a file that is there, its hash so far, and how the rest comes. Arguments: see `download`."""

    def __init__(self, source: WebFile, file: RemoteFile, out: BinaryIO, report: Report, title: str) -> None:
        self._source, self._file, self._out, self._report, self._title = source, file, out, report, title
        self._size: int | None = file.size or None
        self._have, self._hasher = 0, file.hasher()
        out.seek(0)
        while block := out.read(_BLOCK):
            self._count(block)

    def run(self) -> bool:
        """Download the rest; return whether the whole is right. Raises as `download`."""
        failures = 0
        while self._size is None or self._have < self._size:
            before = self._have
            error = self._receive()
            if error is None:
                continue
            failures = 1 if self._have > before else failures + 1
            status = _status_of(error)
            if status == 416:  # what is there is all that the source has, or longer
                self._size = self._size or self._have
                return self._file.sha256 is not None and self._is_right()
            if status in (401, 403, 404) or failures > _ATTEMPTS:
                of = f" of {self._size:,}" if self._size else ""
                raise DownloadError(
                    f"{self._file.name} from {self._title} broke off after {self._have:,}{of} bytes "
                    f"({describe(error)}): run the command again to resume"
                ) from error
            time.sleep(_PAUSE)
        return self._is_right()

    def _receive(self) -> Exception | None:
        """Take in one answer; return the error that ended it early, if one did."""
        more = {"Range": f"bytes={self._have}-"} if self._have else {}
        try:
            with self._source.ask("GET", **more) as answer:
                partial = answer.status_code == 206
                if self._have and not partial:  # the source ignores ranges
                    self._out.truncate(0)
                    self._have, self._hasher = 0, self._file.hasher()
                said = answer.headers.get("Content-Range" if partial else "Content-Length", "")
                if "Content-Encoding" not in answer.headers and (total := re.search(r"\d+$", said)):
                    self._size = self._size or int(total[0])
                # Without a size of pieces, so that a cut loses nothing of what has arrived.
                for chunk in answer.iter_bytes():
                    # Network errors are OSErrors too: this is where those of the disk are told apart.
                    with storage_errors(Path(self._out.name)):
                        self._out.write(chunk)
                    self._count(chunk)
                    if self._size is not None and self._have > self._size:
                        return None
        except StorageError:
            raise
        except Exception as error:  # client libraries raise errors of many families
            return error
        self._size = self._have if self._size is None else self._size
        return None if self._have == self._size else ConnectionError("the answer ended early")

    def _count(self, data: bytes) -> None:
        self._hasher.update(data)
        self._have += len(data)
        self._report(self._have)

    def _is_right(self) -> bool:
        return self._have == self._size and self._file.verified_by(self._hasher)
