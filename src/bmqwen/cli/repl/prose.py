"""An answer as a terminal shows it: wrapped at words, with bold, emphasis, headings and code set apart, as it comes."""

import os
import re
import shutil
from collections.abc import Callable

from rich.cells import cell_len

_BOLD, _ITALIC, _CODE, _DIM, _PLAIN = "\x1b[1m", "\x1b[3m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
_WIDE = (
    "\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
)
# A line break, blanks, marks, one character of Chinese or Japanese, or a word.
_ATOM = re.compile(rf"\n|[ \t]+|\*+|`+|[{_WIDE}]|[^\s*`{_WIDE}]+")
_HANGING = "，。、；：？！）》」』】〉”’…,.;:?!)"
_LIST = re.compile(r"(?:[-*+]|\d{1,3}[.)])")
_NARROWEST = 20
# Emphasis is opened by an asterisk whose counterpart follows on the same line, so far away at most.
_LONGEST_EMPHASIS = 120
_END_OF_EMPHASIS = re.compile(r"(?<![\s*])(?:\*|\*{3})(?!\*)")
_IN_WORD = re.compile(r"[A-Za-z0-9_]")


class Prose:
    """Takes an answer piece by piece and writes it for a terminal, whose colours `styled` allows.

    Code blocks and tables stay as they are. A line that the terminal would break in the midst of a word is broken
    before it, and lists keep their indent. A word is held back until more comes, and what may be emphasis.
    """

    def __init__(
        self, write: Callable[[str], None], *, styled: bool = True, clean: Callable[[str], str] = str
    ) -> None:
        """`clean` takes out of the text what could steer the terminal."""
        self._write, self._styled, self._clean = write, styled, clean
        self._held = ""
        self._line = ""  # what this line has so far, without marks
        self._column = self._indent = 0
        self._blanks = ""
        self._bold = self._emphasis = self._code = self._heading = self._fence = self._table = False

    def __call__(self, text: str) -> None:
        """Take the next piece."""
        self._held += self._clean(text)
        self._take(final=False)

    def close(self) -> None:
        """Write what was held back."""
        self._take(final=True)
        if self._styled and (self._active() or self._fence):
            self._write(_PLAIN)
        self._bold = self._emphasis = self._code = self._heading = self._fence = False

    def _take(self, *, final: bool) -> None:
        out: list[str] = []
        self._out = out
        while self._held:
            if self._column == 0 and not self._line and not self._blanks and self._begin(final=final) is None:
                break
            if not self._held:
                break
            if self._fence or self._table:
                text, newline, self._held = self._held.partition("\n")
                out.append(text + newline)
                self._line = "" if newline else self._line + text
                self._table = self._table and not newline
                continue
            atom = _ATOM.match(self._held)
            assert atom is not None
            # The character after a word, or after marks, tells whether it ends there.
            if atom.end() == len(self._held) and not final and atom[0] != "\n":
                break
            rest = self._held[atom.end() :]
            emphasis = atom[0] in ("*", "***") and not self._code and self._toggles_emphasis(rest, final)
            if emphasis is None:
                break
            self._held = rest
            self._atom(atom[0], emphasis=emphasis)
        if out:
            self._write("".join(out))

    def _begin(self, *, final: bool) -> bool | None:
        """Look at the beginning of a line: a fence, or a heading. None: more must come first."""
        head = self._held.lstrip(" ")
        if (
            not final
            and "\n" not in head
            and len(head) < 8
            and re.fullmatch(r"(`{0,3}|#{1,6} ?|~{0,3})", head)
        ):
            return None
        if re.match(r"[ ]*(```|~~~)", self._held):
            if "\n" not in self._held and not final:
                return None
            line, newline, self._held = self._held.partition("\n")
            self._fence = not self._fence
            self._style(_DIM if self._fence else _PLAIN)
            self._out.append(line)
            self._style(_PLAIN)
            if self._fence:
                self._style(_CODE)
            self._out.append(newline)
            return True
        self._table = not self._fence and self._held.startswith("|")
        if not self._fence and (found := re.match(r"#{1,6} +", self._held)):
            self._held = self._held[found.end() :]
            self._heading = True
            self._style(_BOLD)
        return True

    def _atom(self, atom: str, *, emphasis: bool) -> None:
        if atom == "\n":
            self._end_line()
        elif not atom.strip():
            self._blanks += atom.replace("\t", "    ")
        elif emphasis or (atom == "**" and not self._code and self._toggles_bold()):
            opens = not (self._emphasis if emphasis else self._bold)
            self._bold ^= len(atom) > 1
            self._emphasis ^= emphasis
            self._put("", ("" if opens else _PLAIN) + self._active())
        elif atom == "`" and (self._code or self._held[:1].strip()):
            self._code = not self._code
            self._put("", ("" if self._code else _PLAIN) + self._active())
        else:
            self._put(atom)

    def _active(self) -> str:
        """The styles that are on."""
        on = ((self._bold or self._heading, _BOLD), (self._emphasis, _ITALIC), (self._code, _CODE))
        return "".join(style for is_on, style in on if is_on)

    def _toggles_bold(self) -> bool:
        after = self._held[:1]
        return not self._blanks if self._bold else bool(after.strip())

    def _toggles_emphasis(self, rest: str, final: bool) -> bool | None:
        """Whether an asterisk begins or ends emphasis. None: more must come first."""
        if self._emphasis:
            return not self._blanks
        before = "" if self._blanks else self._line[-1:]
        if not rest[:1].strip() or (_IN_WORD.match(before) and _IN_WORD.match(rest)):
            return False
        line, newline, _ = rest[: _LONGEST_EMPHASIS + 1].partition("\n")
        known = final or bool(newline) or len(line) > _LONGEST_EMPHASIS
        end = _END_OF_EMPHASIS.search(line)
        if end is None or (end.end() == len(line) and not known):
            return False if known else None
        return True

    def _put(self, atom: str, style: str = "") -> None:
        """Write a word, on the next line where this one has no room; or change the style."""
        width = max(_NARROWEST, shutil.get_terminal_size().columns) - 1
        if not self._line:
            self._column = cell_len(self._blanks)
            self._out.append(self._blanks)
            listed = _LIST.fullmatch(atom)
            self._indent = min(width // 2, self._column + (len(atom) + 1 if listed else 0))
        elif atom:
            room = width - (0 if atom not in _HANGING else 1)
            if self._column + len(self._blanks) + cell_len(atom) > room and atom not in _HANGING:
                self._out.append("\n" + " " * self._indent)
                self._column = self._indent
            else:
                self._out.append(self._blanks)
                self._column += len(self._blanks)
        elif style:  # blanks stand before a mark that opens, after one that closes
            if not style.startswith(_PLAIN):
                self._out.append(self._blanks)
                self._column += len(self._blanks)
                self._blanks = ""
            self._style(style)
            return
        self._blanks = ""
        if style:
            self._style(style)
        self._out.append(atom)
        self._line += atom or " "
        self._column += cell_len(atom)

    def _end_line(self) -> None:
        if self._active():
            self._style(_PLAIN)
        self._bold = self._emphasis = self._code = self._heading = False
        self._out.append("\n")
        self._line = self._blanks = ""
        self._column = self._indent = 0

    def _style(self, code: str) -> None:
        if self._styled:
            self._out.append(code)


def is_styled() -> bool:
    """Return whether colours are wanted."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in ("", "dumb")
