"""Where pip would fetch a wheel from, by pip's own word: it knows the user's indexes, and asks for no file yet."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urldefrag, urlsplit

from bmqwen.hub.web_file import WebFile

# pip's line for each file that suits; what follows a "#" is a hash, the page that it stands on may hold a password.
_FOUND = re.compile(r"\s*Found link (?P<url>\S+)(?: \(from .*)?, version: (?P<version>\S+)\s*")
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class WheelLink:
    """A wheel on an index.

    Attributes:
        name: of the file.
        file: where it is.
        sha256: in hex, where the index says it.
    """

    name: str
    file: WebFile
    sha256: str | None

    @classmethod
    def read(cls, lines: Iterable[str], version: str) -> "WheelLink | None":
        """From what `pip index versions -vv` prints, the wheel of a version that can be fetched without pip.

        None where there is none: pip did not find it, has it in a folder, or needs a password for it.
        """
        found: list[WheelLink] = []
        for line in lines:
            match = _FOUND.fullmatch(line)
            if match is None or match["version"] != version:
                continue
            url, fragment = urldefrag(match["url"])
            parts = urlsplit(url)
            name = unquote(parts.path.rpartition("/")[2])
            if not name.endswith(".whl"):
                continue
            # pip would take what is on this machine; and it hides a password, which is part of the address.
            if parts.scheme not in ("http", "https") or "@" in parts.netloc:
                return None
            digest = _SHA256.search(fragment)
            found.append(cls(name, WebFile(url), digest[1] if digest else None))
        return found[0] if found else None
