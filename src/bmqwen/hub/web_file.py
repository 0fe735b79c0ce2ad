"""A file at an address: its size, and answers from any position of it, by what Python itself has for HTTP."""

import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from bmqwen.hub.transfer import Body

READ_SECONDS = 20.0
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class WebFile:
    """Where a file is. Neither part is shown: both may hold a password.

    Attributes:
        url: its address.
        headers: what has to be sent for it.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def size(self, seconds: float = READ_SECONDS) -> int | None:
        """Its bytes; None where nobody says so within `seconds`."""
        request = self._request(method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return int(answer.headers.get("Content-Length") or 0) or None
        # An SSH server answers with what is no HTTP, and a gateway that stands between with errors of its own.
        except (OSError, http.client.HTTPException, ValueError):
            return None

    @contextmanager
    def open_at(self, start: int) -> Iterator[Body]:
        """An answer from a position on; from the start where the server knows no ranges. Raises what urllib does."""
        request = self._request(**({"Range": f"bytes={start}-"} if start else {}))
        with urllib.request.urlopen(request, timeout=READ_SECONDS) as answer:
            yield Body(start if answer.status == 206 else 0, iter(lambda: answer.read1(_BLOCK), b""))

    def _request(self, method: str = "GET", **headers: str) -> urllib.request.Request:
        # Python's own name is refused by some mirrors.
        all_headers = {"User-Agent": "bmqwen", **self.headers, **headers}
        return urllib.request.Request(self.url, headers=all_headers, method=method)
