"""Answers on a terminal: wrapped at words, with their marks turned into styles, however they come in pieces."""

import os
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bmqwen.cli.repl.prose import Prose

TEXT = """# Heading
**准备数据：**先下载，然后使用**INT4（4 比特）**的模型。2 * 3 ** 4 stays.

- a list whose item is longer than a line has room for, with `some code` in it
  1. nested

| a table | stays as it is, however wide its cells may be |
|---|---|

```python
def f(a): return "a line of code that is longer than forty columns stays one line"
```
the end of it
"""
PLAIN = re.sub(r"\*\*(?! )|(?<!`)`(?!`)|^# ", "", TEXT, flags=re.M).replace("3  4", "3 ** 4")


def shown(text: str, width: int, sizes: tuple[int, ...] = (10_000,), *, styled: bool = True) -> str:
    """What a terminal of so many columns gets of a text that comes in pieces of these sizes."""
    out: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((width, 30)))
        prose = Prose(out.append, styled=styled)
        at = 0
        while at < len(text):
            for size in sizes:
                prose(text[at : at + size])
                at += size
        prose.close()
    return "".join(out)


def without_style(text: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", text)


@pytest.mark.parametrize("width", [40, 100])
def test_lines_break_at_words_and_nothing_is_lost(width: int) -> None:
    lines = shown(TEXT, width, styled=False).split("\n")
    joined = "".join("".join(lines).split())
    assert joined == "".join(PLAIN.split())
    for line in lines:
        if not line.startswith(("|", "def f")):
            assert cell_len(line) <= width
    words = {word for line in lines for word in line.split()}
    assert {"longer", "nested", "columns"} <= words
    if width == 40:
        assert "  line has room for, with some code in" in lines  # indented as its item is


def test_marks_become_styles() -> None:
    text = shown(TEXT, 100)
    assert "\x1b[1mHeading\x1b[0m\n\x1b[1m准备数据：\x1b[0m先下载" in text
    assert "使用\x1b[1mINT4（4 比特）\x1b[0m的模型" in text
    assert "\x1b[36msome code\x1b[0m" in text
    assert "2 * 3 ** 4 stays." in text


@pytest.mark.parametrize(
    ("text", "styled"),
    [
        ("an *important* word", "an <i>important<> word"),
        ("这叫*“量化”*，是指", "这叫<i>“量化”<>，是指"),
        ("*注意：*先下载*（4 比特）*的模型", "<i>注意：<>先下载<i>（4 比特）<>的模型"),
        ("**bold and *both* of it**", "<b>bold and <b><i>both<><b> of it<>"),
        ("***both*** of them", "<b><i>both<> of them"),
        ("# A *word* in a heading", "<b>A <b><i>word<><b> in a heading<>"),
        ("2 * 3 * 4, a*b*c, 2*3*4 and *args stay", None),
        ("*no end\nof it*", None),
        ("`*code*` and *an end too far " + "away " * 40 + "*", None),
    ],
)
def test_emphasis(text: str, styled: str | None) -> None:
    marks = {"\x1b[1m": "<b>", "\x1b[3m": "<i>", "\x1b[0m": "<>", "\x1b[36m": "", "\x1b[2m": ""}
    found = shown(text, 1000)
    for code, mark in marks.items():
        found = found.replace(code, mark)
    if styled is None:
        assert "<i>" not in found
        assert found.count("*") == text.count("*")
    else:
        assert found == styled


@given(st.text("*`# \n|-1.ab一，\\", max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pieces_do_not_matter(text: str, sizes: list[int]) -> None:
    assert shown(text, 24, tuple(sizes)) == shown(text, 24)
    joined = without_style(shown(text, 24))
    assert re.sub(r"[*`#\s]", "", joined) == re.sub(r"[*`#\s]", "", text)
