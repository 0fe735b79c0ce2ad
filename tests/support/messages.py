"""The messages that a program's sources can produce, and whether a quoted one is among them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# A place where a message has any text: `{...}` in a source, "..." in a quotation.
GAP = "\0"
# What fills a place has at most so many words, and the rest of a quotation at least this share of its characters.
MOST_WORDS = 5
LEAST_SHARE = 0.4


class Messages:
    """All text of Python sources but docstrings, as patterns."""

    def __init__(self, folder: Path) -> None:
        """Read the sources below a folder."""
        found = {text for path in folder.rglob("*.py") for text in _texts(ast.parse(path.read_bytes()))}
        self._texts = [(text, _words(text)) for text in sorted(found)]

    def __contains__(self, quoted: str) -> bool:
        """Whether a source can say this; "..." stands for any text.

        A message may be put together: what follows a colon or a semicolon may come from another place.
        """
        return self._fits(re.sub(r"\s*\.\.\.", GAP, quoted).strip())

    def _fits(self, quoted: str) -> bool:
        words = _words(quoted)
        if not words:
            return True
        if any(2 * len(words & others) >= len(words) and _says(text, quoted) for text, others in self._texts):
            return True
        return any(
            self._fits(quoted[: cut.start()]) and self._fits(quoted[cut.end() :])
            for cut in re.finditer("[:;] ", quoted)
        )


def _texts(tree: ast.AST) -> Iterator[str]:
    """Each string that is no docstring, with gaps where values stand, once for each choice of its conditions."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if id(node) not in skipped:
            yield from _choices(node)


def _choices(node: ast.AST) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text] if " " in text else []
        case ast.JoinedStr(values=parts):
            texts = [""]
            for part in parts:
                ends = [part.value] if isinstance(part, ast.Constant) else _values(part)
                texts = [text + str(end) for text in texts for end in ends]
            return texts
        case _:
            return []


def _values(part: ast.expr) -> list[str]:
    """What a place can hold, as far as the source says."""
    match part:
        case ast.FormattedValue(value=ast.IfExp(body=first, orelse=second)):
            return [*(_choices(first) or [GAP]), *(_choices(second) or [GAP])]
        case _:
            return [GAP]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d]{2,}", text))


def _says(text: str, quoted: str) -> bool:
    """Whether a quotation is what a text, or a clause of it, begins with, values in its gaps."""
    text, wanted = text.strip(), len(quoted.replace(GAP, ""))

    @cache
    def matched(at: int, place: int, words: int) -> float:
        """Most characters of quoted[at:] that are text[place:], not values; -inf where they cannot be."""
        if at == len(quoted):
            return 0
        best = float("-inf")
        if quoted[at] == GAP:
            # What a quotation leaves out may be long.
            best = matched(at + 1, place, 0)
            if place < len(text):
                best = max(best, matched(at, place + 1, 0))
        elif place < len(text):
            if text[place] == GAP:
                best = matched(at, place + 1, 0)
                words += quoted[at] == " "
                if words < MOST_WORDS:
                    best = max(best, matched(at + 1, place, words))
            elif quoted[at] == text[place]:
                best = 1 + matched(at + 1, place + 1, 0)
        return best

    starts = [0, *(clause.end() for clause in re.finditer("[:;] ", text))]
    return max(matched(0, start, 0) for start in starts) >= LEAST_SHARE * wanted
