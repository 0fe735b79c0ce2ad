"""The commands of the conversation, given as lines on stdin."""

import re
from pathlib import Path

import pytest

from bmqwen.cli.repl.commands import COMMANDS, is_script
from support.program import Run
from support.talker import SAYS, write_talker


def test_lines_are_taken_as_if_typed(say: Run) -> None:
    done = say("hi", "", "/show", "again")
    assert done.returncode == 0
    assert done.stdout == f"{SAYS}\n[1] hi\n\n{SAYS}\n{SAYS}\n"
    first, second = re.findall(r"([\d,]+) prompt tokens(?: \(([\d,]+) cached\))?", done.stderr)
    assert first == ("30", "")
    assert int(second[1]) > 30  # the second turn reads only what is new
    assert "\x1b" not in done.stdout + done.stderr


def test_exit_ends_the_script(say: Run) -> None:
    done = say("/exit", "hi")
    assert (done.returncode, done.stdout) == (0, "")


def test_unknown_commands_are_not_sent(say: Run) -> None:
    done = say("/sistem x", "/qqq", "/reset now", "/show")
    assert done.returncode == 2
    assert "unknown command /sistem: did you mean /system?" in done.stderr
    assert "unknown command /qqq: /help lists them" in done.stderr
    assert "usage: /reset" in done.stderr
    assert done.stdout == "nothing has been said yet\n"


def test_a_slash_can_be_sent(say: Run) -> None:
    done = say("//etc/hosts", "/show")
    assert "[1] /etc/hosts\n" in done.stdout


def test_blocks_hold_many_lines(say: Run) -> None:
    lines = ['"""', "def f():", '    """Twice."""', "/exit", "", '"""', '"""one', 'two"""', "/show"]
    done = say(*lines)
    assert done.returncode == 0
    assert '[1] def f():\n    """Twice."""\n/exit\n\n\n' in done.stdout
    assert "[2] one\ntwo\n" in done.stdout


def test_an_open_block_at_the_end_is_an_error(say: Run) -> None:
    done = say("/show", '"""', "never closed")
    assert done.returncode == 2
    assert "ends inside a block" in done.stderr
    assert done.stdout == "nothing has been said yet\n"


def test_the_system_message(say: Run) -> None:
    block = ('/system """', "one", "two", '"""')
    done = say(
        "/system",
        "/system be brief",
        "/system",
        *block,
        "/system",
        "hi",
        "/reset",
        "/show",
        '/system ""',
        "/system",
    )
    assert done.stdout.splitlines() == [
        "no system message of your own",
        "be brief",
        "one",
        "two",
        SAYS,
        "system: one",
        "two",
        "nothing has been said yet",
        "no system message of your own",
    ]
    assert "new conversation, same system message" in done.stderr


def test_settings(say: Run) -> None:
    done = say(
        "/set max_tokens 2", "hi", "/set max-tokens=none", "hi", "/set stop ' and' x", "hi", "/set temperature 9",
        "/set top_k many", "/set temprature 1", "/set top_p", "/set top_p off", "/set top_p default", "/set",
    )  # fmt: skip
    answers = done.stdout.splitlines()[:3]
    assert answers == ["hello you", SAYS, "hello you"]
    assert done.returncode == 2
    assert "temperature is 9.0, but must be a number from 0 to 2" in done.stderr
    assert "top_k must be a whole number, not many" in done.stderr
    assert "did you mean temperature?" in done.stderr
    assert "top_p is 0.8\ntop_p is now 1.0\ntop_p is now 0.8" in done.stderr
    assert re.search(r"^  max_tokens +none$", done.stdout, re.M)
    assert re.search(r"^  stop +' and' x$", done.stdout, re.M)


def test_an_earlier_turn_is_edited(say: Run) -> None:
    done = say(
        "one", "two", "three", "/edit 2 deux", "/show", "/edit 1", "uno", "/show", "/edit 4", "/edit x"
    )
    shown = done.stdout.split("[1] ")
    assert shown[1].startswith(f"one\n\n{SAYS}\n\n[2] deux\n\n{SAYS}\n{SAYS}\n")
    assert shown[2] == f"uno\n\n{SAYS}\n"
    assert done.returncode == 2
    assert "there is no turn 4: the conversation has 1" in done.stderr
    assert "usage: /edit N [TEXT]" in done.stderr


def test_the_last_answer_is_given_again(say: Run) -> None:
    done = say("/set temperature 0", "/regen", "hi", "/set max_tokens 1", "/regen", "/retry", "/show")
    assert done.stdout == f"{SAYS}\nhello\nhello\n[1] hi\n\nhello\n"
    assert "there is no answer yet" in done.stderr
    assert done.stderr.count("the same answer, since temperature is 0") == 1


def test_save_and_load(say: Run, tmp_path: Path) -> None:
    saved = tmp_path / "my talk.json"
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine")
    done = say(
        "/system be brief", "hi", f"/save {saved}", f"/save '{saved}'", "/reset", "/system other", "/show",
        f"/load {saved}", "/show", f"/save {foreign}", f"/load {foreign}", f"/load {tmp_path}/none", "/save",
        f"/save {foreign}/in", "/save ~nobodyhere/x", "/load " + "x" * 5000, "/stats",
    )  # fmt: skip
    assert "system: other\nnothing has been said yet\n" in done.stdout
    assert f"system: be brief\n\n[1] hi\n\n{SAYS}\n" in done.stdout
    assert done.stderr.count(f"saved 1 turn to {saved}") == 2
    assert f"loaded 1 turn from {saved}" in done.stderr
    assert foreign.read_text() == "mine"
    assert f"{foreign} exists and is not a saved conversation" in done.stderr
    assert done.stderr.count("bmqwen: ") == 7
    assert "Traceback" not in done.stderr
    assert "turns       1\n" in done.stdout


def test_statistics(say: Run) -> None:
    done = say("/stats", "hi", "hi", "/stats")
    before, after = done.stdout.split("  model ")[1:]
    assert "0 of 512 tokens used" in before
    assert "last" not in before
    assert "turns       2" in after
    assert re.search(r"all         2 answers · \d+ prompt tokens, of which \d+ cached · \d+ out", after)


def test_turns_that_no_longer_fit_are_said(bmqwen: Run, tmp_path: Path) -> None:
    small = write_talker(tmp_path / "small", context=128)
    done = bmqwen("chat", small, stdin="\n".join(["/set max_tokens 5", *["hi"] * 8, "/show", "/stats"]))
    assert done.returncode == 0
    assert re.search(r"the (oldest turn|\d oldest turns) no longer fits? into the context", done.stderr)
    assert "[1] hi  (no longer seen by the model)" in done.stdout
    assert "[8] hi\n" in done.stdout
    assert re.search(r"turns       8, of which \d no longer fit", done.stdout)


def test_help_names_every_command(say: Run) -> None:
    done = say("/help")
    for command in COMMANDS:
        for name in (command.name, *command.aliases):
            assert name in done.stdout
        assert f"{command.name} {command.usage}".rstrip() + "  " in done.stdout, "a summary stands apart"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("hello\n/exit\n", True),
        ("hello\r\n/exit\r\n", True),
        ("/system be brief", True),
        ("/set temperature 1", True),
        ("what is /help ?", False),
        (" /help", False),
        ("/help me with this", False),
        ("/helpful", False),
        ("/usr/bin/python", False),
        ("/edit it", False),
        ("/edit 2 it", True),
        ("/save", False),
        ("", False),
    ],
)
def test_what_a_script_is(text: str, script: bool) -> None:
    assert is_script(text) is script


def test_files_go_with_the_next_message(say: Run, tmp_path: Path) -> None:
    code, picture, long = tmp_path / "f.py", tmp_path / "picture.txt", tmp_path / "long.log"
    code.write_text("x = '```'\n")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    long.write_text("word " * 2000)
    paper = tmp_path / "paper.pdf"
    paper.write_bytes(b"%PDF-1.7\n")
    files = (code, picture, long, paper, tmp_path / "none")
    done = say(*(f"/read {file}" for file in files), "hi", "/show", "ho")
    assert "f.py: " in done.stderr
    assert "goes with your next message" in done.stderr
    assert "picture.txt is not text" in done.stderr
    assert re.search(r"long.log has [\d,]+ tokens, 511 fit into the context", done.stderr)
    assert "paper.pdf is a PDF, whose text only the web page of `bmqwen serve` can read" in done.stderr
    assert "none cannot be read" in done.stderr
    assert "[1] File `f.py`:\n````py\nx = '```'\n````\n\nhi\n" in done.stdout
    assert done.stdout.count(SAYS) == 3


def test_a_full_context_can_refuse_instead_of_forgetting(say: Run) -> None:
    long = "hello " * 110
    dropped = say("/overflow drop", *[long] * 4)
    assert "no longer fit" in dropped.stderr
    refused = say("/overflow refuse", *[long] * 4)
    assert "no longer fit" not in refused.stderr
    assert "when the context is full, the question is refused" in refused.stderr
    assert "let the oldest turns be left out" in refused.stderr
    assert say("/overflow never").stderr.startswith("bmqwen: usage: /overflow [drop|refuse]")
