"""A file that goes with a message, as text."""

import re
from dataclasses import dataclass
from pathlib import Path

from bmqwen.errors import InputError
from bmqwen.util.text import size_text

_LARGEST = 4_000_000  # bytes: more than any context holds
_ENCODINGS = ("utf-8-sig", "gb18030")
_BINARY = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file's name and text."""

    name: str
    text: str

    def block(self) -> str:
        """Return the text as a named block of Markdown, as the web page sends it."""
        longest = max((len(run) for run in re.findall("`{3,}", self.text)), default=2)
        fence = "`" * (longest + 1)
        kind = Path(self.name).suffix.removeprefix(".")
        text = self.text.removesuffix("\n")
        return f"File `{self.name.replace('`', chr(39))}`:\n{fence}{kind}\n{text}\n{fence}"


def read_attachment(path: Path) -> Attachment:
    """Read a text file in UTF-8, UTF-16 with its mark, or GB 18030. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if data.startswith(b"%PDF-"):
        raise InputError(
            f"{path} is a PDF, whose text only the web page of `bmqwen serve` can read: attach it there, or turn it "
            "into a text file (`pdftotext FILE.pdf`) and read that"
        )
    if len(data) > _LARGEST:
        raise InputError(
            f"{path} is {size_text(size)} long; a message takes files of up to {size_text(_LARGEST)}"
        )
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else _ENCODINGS
    for encoding in encodings:
        try:
            text = data.decode(encoding).replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if not _BINARY.search(text):
            if not text.strip():
                raise InputError(f"{path} is empty")
            return Attachment(path.name, text)
    raise InputError(
        f"{path} is not text, so the model cannot read it: attach source code, Markdown or the like"
    )
