"""What `--help` calls values, and where wrong options lead."""

import re

import pytest

from bmqwen.cli.app import app, run

COMMANDS = [str(command.name) for command in app.registered_commands]
TYPES = re.compile(r"<(bool|int|float|str|path|list\[\w+\])( range)?>")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_no_types(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert not TYPES.search(shown)


def test_values_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--seed +(N|INTEGER) ", shown)
    assert re.search(r"--top-p +(X|FLOAT) ", shown)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ("--nonsense", "bmqwen"),
        ("serve --nonsense", "bmqwen serve"),
        ("serve --api-key", "bmqwen serve"),
        ("cluster serve --address", "bmqwen cluster serve"),
    ],
)
def test_a_wrong_option_leads_to_the_help_of_its_command(
    arguments: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments.split()) == 2
    assert f"`{where} --help`" in capsys.readouterr().err
