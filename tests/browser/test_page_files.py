"""The page's files, as far as they can be checked without a browser: vendored bytes, words, references."""

import hashlib
import re
from pathlib import Path

import pytest

from bmqwen import errors, serve

PAGE = Path(serve.__file__).parent / "page"
VENDOR = PAGE / "vendor"
SOURCES = sorted(path for path in PAGE.rglob("*.js") if VENDOR not in path.parents)
LANGUAGES = ("en", "zh")


def name(path: Path) -> str:
    """Of a file, for test ids."""
    return str(path.relative_to(PAGE))


def entries(language: str) -> dict[str, str]:
    """The top-level keys of a language with how their values begin: `(count) =>`, `[`, `{` or a quote."""
    text = (PAGE / "language" / f"{language}.js").read_text(encoding="utf-8")
    return dict(re.findall(r'^  (\w+): (\([\w, ]*\) =>|["\[{])', text, re.MULTILINE))


def test_vendored_files_are_the_bytes_that_were_reviewed() -> None:
    listed = dict(
        re.findall(r"^\| `([\w./-]+)` .* `([0-9a-f]{64})` \|$", (VENDOR / "VENDORED.md").read_text(), re.M)
    )
    together = (".woff2", ".bcmap")
    others = [path for path in VENDOR.rglob("*") if path.suffix not in (".LICENSE", ".md", *together)]
    files = {path.relative_to(VENDOR).as_posix(): path.read_bytes() for path in others if path.is_file()}
    for folder in ("katex/fonts/", "pdf/cmaps/"):
        files[folder] = b"".join(path.read_bytes() for path in sorted((VENDOR / folder).iterdir()))
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == listed


def test_vendored_files_have_their_licences() -> None:
    named = re.findall(r"`([\w-]+\.LICENSE)`", (VENDOR / "VENDORED.md").read_text())
    assert len(named) >= 4
    assert [file for file in named if not (VENDOR / file).is_file()] == []


def test_both_languages_have_the_same_words() -> None:
    english, chinese = map(entries, LANGUAGES)
    assert len(english) > 80
    assert english == chinese


@pytest.mark.parametrize("part", ["fault", "shortcuts"])
def test_both_languages_have_the_same_lists(part: str) -> None:
    found = []
    for language in LANGUAGES:
        text = (PAGE / "language" / f"{language}.js").read_text(encoding="utf-8")
        body = re.search(rf"^  {part}: [{{\[]\n(.*?)^  [}}\]]", text, re.DOTALL | re.MULTILINE)
        assert body
        found.append(re.findall(r'^    (?:(\w+):|\["([^"]+)")', body[1], re.MULTILINE))
    assert found[0] == found[1]
    assert found[0]


def test_every_error_of_the_server_has_words() -> None:
    """Those that a request from the page can meet, each by its code."""
    elsewhere = ("unsupported_model", "bad_checkpoint", "bad_bundle", "download_failed", "missing_dependency")
    codes = {kind.code for kind in _kinds(errors.BmqwenError)} - {*elsewhere, "compile_failed"}
    text = (PAGE / "server" / "fault.js").read_text(encoding="utf-8")
    known = dict(re.findall(r'^  (\w+): "(\w+)",$', text, re.M))
    assert codes - set(known) == set()
    english = (PAGE / "language" / "en.js").read_text(encoding="utf-8")
    words = set(re.findall(r"^    (\w+):", english[english.index("  fault: {") :], re.M))
    assert set(known.values()) <= words


def _kinds(kind: type[errors.BmqwenError]) -> list[type[errors.BmqwenError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def test_every_word_is_said_and_every_word_said_exists() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.parent.name != "language")
    known = set(entries("en"))
    quoted = set(re.findall(r'"(\w+)"', code))
    # Ages and reasons are said by a name that is chosen elsewhere.
    said = set(re.findall(r'\bsay\(\s*"(\w+)"', code))
    assert said <= known
    assert known - quoted - {"today", "yesterday", "week", "older"} == set()


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_imports_lead_to_files_and_names(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    for clause, target in re.findall(r'^(?:import|export) (.*?) ?from "([^"]+)";$', text, re.DOTALL | re.M):
        path = (source.parent / target).resolve()
        assert path.is_file(), target
        if VENDOR in path.parents or not clause.startswith("{"):
            continue
        exported = path.read_text(encoding="utf-8")
        for imported in re.findall(r"\w+", clause):
            assert re.search(rf"\b{imported}\b", exported), (imported, target)


def test_nothing_names_another_server() -> None:
    """Everything that the page loads is its own."""
    for path in [*SOURCES, *PAGE.rglob("*.css"), *PAGE.rglob("*.html")]:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}", path.read_text(encoding="utf-8"))
        assert addresses == [], path
