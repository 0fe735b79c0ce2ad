"""Machines written down: files, links, and what an ordinary user may not open.

A record is a text file. `=== PATH` begins a file, whose content follows; `=== PATH -> TARGET` is a link; `hex` behind
the path: the content is in hexadecimal; `root`: only root may open it; `folder`: it is one. A record may begin with
`=== include NAME`, and then `=== PATH gone` takes something out of that.
"""

from pathlib import Path

from bmqwen.chip.system import System

FOLDER = Path(__file__).parent / "machines"
PACKAGES = "/usr/lib/python3/dist-packages"
PROGRAMS = "/usr/bin"


class RecordedSystem(System):
    """A machine as an ordinary user sees it, whoever runs the test."""

    def __init__(self, root: Path, secret: set[str]) -> None:
        super().__init__(root, programs=[PROGRAMS], packages=[PACKAGES], library_path=[])
        self._secret = secret

    def data(self, name: str) -> bytes | None:
        """Nothing of what only root may read."""
        return None if self._hidden(name) else super().data(name)

    def is_denied(self, name: str) -> bool:
        """As recorded."""
        return self._hidden(name) and super().exists(name)

    def may_use(self, name: str) -> bool:
        """As recorded."""
        return not self._hidden(name) and super().may_use(name)

    def exists(self, name: str) -> bool:
        """A file in a folder that may not be searched is not seen."""
        return super().exists(name) and (name in self._secret or not self._hidden(name))

    def _hidden(self, name: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for path in self._secret)


def recorded(name: str, folder: Path) -> RecordedSystem:
    """Lay a record out below an empty folder."""
    secret: set[str] = set()
    _lay_out(name, folder, secret)
    return RecordedSystem(folder, secret)


def _lay_out(name: str, folder: Path, secret: set[str]) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    for part in text.split("\n=== ")[1:]:
        head, _, content = part.partition("\n")
        words = head.split()
        if words[0] == "include":
            _lay_out(words[1], folder, secret)
            continue
        path = folder / words[0].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        secret.discard(words[0])
        if "gone" in words:
            continue
        if "root" in words:
            secret.add(words[0])
        if "folder" in words:
            path.mkdir(exist_ok=True)
        elif "->" in words:
            path.symlink_to(words[-1])
        elif "hex" in words:
            path.write_bytes(bytes.fromhex(content))
        else:
            path.write_text(content + "\n")
