"""The web page as browsers get it: one document with its styles, one script, and what these load later."""

import base64
import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

# What a system's own table may lack.
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_COMPRESSED = frozenset({".js", ".css", ".html", ".svg"})
_STYLES = ("tokens", "base", "layout", "sidebar", "thread", "prose", "composer", "panels")
_LIBRARIES = "vendor/"
SCRIPT = "app.js"

_IMPORT = re.compile(r'^import (\*\s+as\s+\w+|\{[^}]*\}|\w+)\s+from "([^"]+)";\n', re.MULTILINE)
_REEXPORT = re.compile(r'^export \{([^}]*)\}\s+from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)
_LATER_IMPORT = re.compile(r'\bimport\("([^"]+)"\)')


@dataclass(frozen=True)
class PageFile:
    """A file of the page, as it is and compressed."""

    data: bytes
    media_type: str
    packed: bytes | None

    @classmethod
    def of(cls, data: bytes, suffix: str) -> "PageFile":
        """Return the file with its type; what is text is compressed as well."""
        kind = _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
        return cls(data, kind, gzip.compress(data, 9, mtime=0) if suffix in _COMPRESSED else None)


class PageFiles:
    """The page's folder: its modules joined to one script, its styles in the document, the rest file by file.

    A browser on a slow line pays for each request, so that fifty small files would take it ten seconds. Addresses
    hold a hash of all files: what they lead to never changes, and browsers keep it.
    """

    def __init__(self, folder: Path) -> None:
        """Take the files below `folder`, which are read when they are wanted."""
        self._folder = folder
        self._kept: dict[str, PageFile | None] = {}

    @cached_property
    def version(self) -> str:
        """A name for the content of all files."""
        digest = hashlib.sha256()
        for path in sorted(self._folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(self._folder)}\0".encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def document(self) -> PageFile:
        """The document, which shows something before its script has come."""
        text = (self._folder / "index.html").read_text(encoding="utf-8")
        text = text.replace("<style></style>", f"<style>{self._style}</style>")
        text = text.replace("<script></script>", f"<script>{self._theme}</script>")
        return PageFile.of(text.replace("/page/", f"/page/{self.version}/").encode(), ".html")

    @cached_property
    def policy(self) -> str:
        """The Content-Security-Policy: no script or style but the page's own, and no other place to talk to."""
        return (
            f"default-src 'self'; script-src 'self' {_hash_of(self._theme)}; style-src 'self' {_hash_of(self._style)}; "
            "connect-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )

    def find(self, path: str) -> PageFile | None:
        """Return the file at a path below the page's folder, or None."""
        if path not in self._kept:
            if len(self._kept) > 1000:  # of names that lead nowhere
                self._kept.clear()
            self._kept[path] = self._read(path)
        return self._kept[path]

    def _read(self, path: str) -> PageFile | None:
        if path == SCRIPT:
            return PageFile.of(join_modules(self._folder, "main.js").encode(), ".js")
        parts = PurePosixPath(path).parts
        if not parts or any(part in ("/", "..") or "\0" in part for part in parts):
            return None
        file = self._folder.joinpath(*parts)
        return PageFile.of(file.read_bytes(), file.suffix) if file.is_file() else None

    @cached_property
    def _theme(self) -> str:
        return (self._folder / "theme.js").read_text(encoding="utf-8")

    @cached_property
    def _style(self) -> str:
        files = (self._folder / "styles" / f"{name}.css" for name in _STYLES)
        return "".join(file.read_text(encoding="utf-8") for file in files)


def join_modules(folder: Path, entry: str) -> str:
    """Return one module that does what `entry` and all that it imports do, libraries and later imports left outside.

    Each module becomes a function that returns what it exports. The page's modules are written so that this is
    possible: imports stand at the beginning of a line, what is exported is declared as such and never assigned
    to again, and no two modules import each other (ValueError).
    """
    folder = folder.resolve()
    names: dict[Path, str] = {}
    libraries: list[str] = []
    bodies: list[str] = []
    open_modules: list[Path] = []

    def path_of(target: str, source: Path) -> str:
        return (source.parent / target).resolve().relative_to(folder).as_posix()

    def name_of(target: str, source: Path) -> str:
        path = path_of(target, source)
        if not path.startswith(_LIBRARIES):
            return add(folder / path)
        if path not in libraries:
            libraries.append(path)
        return f"library{libraries.index(path)}"

    def add(source: Path) -> str:
        if source in names:
            return names[source]
        if source in open_modules:
            raise ValueError(f"{source.name} imports itself by way of others")
        open_modules.append(source)
        text = source.read_text(encoding="utf-8")

        def take(found: re.Match[str]) -> str:
            clause, module = found[1], name_of(found[2], source)
            if clause.startswith("{"):
                return f"const {clause.replace(' as ', ': ')} = {module};\n"
            if clause.startswith("*"):
                return f"const {clause.split()[-1]} = {module};\n"
            return f"const {clause} = {module}.default;\n"

        exports: list[str] = []

        def pass_on(found: re.Match[str]) -> str:
            module = name_of(found[2], source)
            exports.extend(f"{name}: {module}.{name}" for name in re.findall(r"\w+", found[1]))
            return ""

        text = _REEXPORT.sub(pass_on, _IMPORT.sub(take, text))
        text = _LATER_IMPORT.sub(lambda found: f'import("./{path_of(found[1], source)}")', text)
        exports += [name for _, name in _EXPORT.findall(text)]
        open_modules.pop()
        names[source] = f"module{len(names)}"
        body = _EXPORT.sub(r"\1", text)
        bodies.append(
            f"const {names[source]} = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"
        )
        return names[source]

    add(folder / entry)
    heads = [f'import * as library{place} from "./{path}";\n' for place, path in enumerate(libraries)]
    return "".join([*heads, *bodies])


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
