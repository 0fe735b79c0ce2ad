"""Tables on terminals of several widths."""

import io
import re

import pytest

from bmqwen.cli.terminal import print_table

LONG = "qwen2.5-coder-0.5b-instruct-q4_k_m"
ROWS = [
    (LONG, "491 MB", "here"),
    ("talker-int4", "5 MB", f"converted from {LONG}"),
    ("other", "", "not here"),
]


class Screen(io.StringIO):
    """What is taken for a terminal."""

    def isatty(self) -> bool:
        return True


def shown(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the table on a terminal of that width."""
    screen = Screen()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    print_table(("MODEL", "SIZE", "STATE"), ROWS)
    lines = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_a_narrow_terminal_gets_each_name_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        LONG,
        "  491 MB, here",
        "talker-int4",
        "  5 MB, converted from",
        f"  {LONG}",
        "other",
        "  not here",
    ]
    assert shown(40, monkeypatch) == lines


@pytest.mark.parametrize("width", [60, 80])
def test_a_wider_one_gets_columns_with_whole_names(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head, *rows = shown(width, monkeypatch)
    assert head.split() == ["MODEL", "SIZE", "STATE"]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == [LONG, "talker-int4", "other"]
