"""How an entry is taken apart."""

import pytest

from bmqwen.cli.repl.entry import Entry, is_open, parse


@pytest.mark.parametrize(
    ("text", "command", "content"),
    [
        (" hello ", "", "hello"),
        ("//etc", "", "/etc"),
        ("/no_think why?", "", "/no_think why?"),
        ("/help", "/help", ""),
        ("  /system be brief ", "/system", "be brief"),
        ("/system one\ntwo", "/system", "one\ntwo"),
        ('"""\n  a\n\n"""', "", "  a\n"),
        ('"""\n/help\n"""', "", "/help"),
        ('"""a\nb"""', "", "a\nb"),
        ('"""a"""', "", "a"),
        ('/system """\na\n"""', "/system", "a"),
        ('/edit 12 """\na\n"""', "/edit", "12 a"),
        ('say """ twice', "", 'say """ twice'),
    ],
)
def test_entries(text: str, command: str, content: str) -> None:
    assert not is_open(text)
    assert parse(text) == Entry(command, content)


@pytest.mark.parametrize(
    "text", ['"""', '"""\n', '"""\nx"""', '"""\n    """', '"""a', '"""a\nb', '/system """', '/edit 1 """\na']
)
def test_open_blocks(text: str) -> None:
    assert is_open(text)
