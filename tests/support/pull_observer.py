"""What a pull said, and what it left on disk."""

from pathlib import Path


class Notes:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, int | None]] = []
        self.done: list[int] = []
        self.notes: list[str] = []

    def start(self, label: str, total: int | None) -> None:
        self.starts.append((label, total))
        self.done.clear()

    def advance(self, done: int) -> None:
        self.done.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


def left_in(folder: Path) -> list[str]:
    """Paths of all files but locks, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(folder)) for path in files)
