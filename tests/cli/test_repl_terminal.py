"""The conversation on a real (pseudo) terminal, key by key."""

import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from support.program import PROMPT, heed_ctrl_c
from support.talker import SAYS

ENTER, CTRL_C, CTRL_D, CTRL_J, UP, TAB = "\r", "\x03", "\x04", "\n", "\x1b[A", "\t"
ALT_ENTER = "\x1b\r"
DONE = r"\d+ out"

Start = Callable[..., Any]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts `bmqwen chat` on a terminal and waits for its prompt."""
    running: list[Any] = []

    def run(model: Path, *options: str, dimensions: tuple[int, int] = (30, 100), **variables: str) -> Any:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "bmqwen", "chat", str(model), *options],
            env=environment | variables,
            encoding="utf-8",
            dimensions=dimensions,
            timeout=60,
            preexec_fn=heed_ctrl_c,
        )
        running.append(child)
        child.expect(">>> " if variables.get("TERM") == "dumb" else PROMPT)
        return child

    yield run
    for child in running:
        child.close(force=True)


def ask(child: Any, text: str) -> str:
    """Type a message, wait for the end of its answer; what was on the screen since."""
    child.send(text + ENTER)
    child.expect(DONE)
    shown = str(child.before)
    child.expect(PROMPT)
    return shown


def command(child: Any, text: str) -> str:
    """Type a command; what it prints."""
    child.send(text + ENTER)
    child.expect(PROMPT)
    return str(child.before)


def leave(child: Any) -> int | None:
    """Ctrl-D; the exit code."""
    child.send(CTRL_D)
    child.expect(pexpect.EOF)
    child.close()
    status: int | None = child.exitstatus
    return status


def test_first_line_answer_and_leaving(start: Start, talker: Path) -> None:
    child = start(talker)
    first = str(child.before)
    for word in ("talker", "int4", "CPU", "512 tokens", "/help"):
        assert word in first
    assert SAYS in ask(child, "你好")
    assert "[1] 你好" in command(child, "/show")
    assert leave(child) == 0


def test_history_lasts_and_is_private(start: Start, talker: Path, tmp_path: Path) -> None:
    child = start(talker)
    ask(child, "remember 你好")
    assert leave(child) == 0
    file = tmp_path / "state" / "bmqwen" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "+remember 你好" in file.read_text(encoding="utf-8")
    child = start(talker)
    child.send(UP)
    child.expect("remember 你好")
    assert SAYS in ask(child, "")
    assert "[1] remember 你好" in command(child, "/show")


def test_a_home_that_cannot_be_written_is_no_obstacle(start: Start, talker: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    child = start(talker, XDG_STATE_HOME=str(tmp_path / "file"))
    assert SAYS in ask(child, "hi")
    assert leave(child) == 0


def test_messages_of_many_lines(start: Start, talker: Path) -> None:
    child = start(talker)
    ask(child, f"one{CTRL_J}two{ALT_ENTER}three")
    ask(child, f'"""{ENTER}four{ENTER}/show{ENTER}"""')
    pasted = "five\r\tsix"
    ask(child, f"\x1b[200~{pasted}\x1b[201~")
    shown = command(child, "/show").replace("\r\n", "\n")
    assert "[1] one\ntwo\nthree\n" in shown
    assert "[2] four\n/show\n" in shown
    assert "[3] five\n" in shown


def test_ctrl_c_stops_the_answer_and_keeps_the_session(start: Start, chatterbox: Path) -> None:
    child = start(chatterbox)
    child.send("go" + ENTER)
    child.expect("hello you and the you")
    child.send(CTRL_C)
    child.expect("stopped")
    child.expect(PROMPT)
    assert "[1] go\r\n\r\nhello you and the you" in command(child, "/show")
    command(child, "/set max_tokens 2")
    child.send("more" + ENTER)
    child.expect(r"\d\d prompt tokens \(\d+ cached\)|, \d+ prompt|prompt tokens \([\d,]+ cached\)")
    child.expect(PROMPT)
    assert "[2] more\r\n\r\nhello you\r\n" in command(child, "/show")
    assert leave(child) == 0


def test_ctrl_c_at_the_prompt(start: Start, talker: Path) -> None:
    child = start(talker)
    child.send("never sent" + CTRL_C)
    child.expect("Ctrl-C again")
    child.expect(PROMPT)
    ask(child, "hi")
    assert "never sent" not in command(child, "/show")
    child.send(CTRL_C)
    child.expect("Ctrl-C again")
    child.expect(PROMPT)
    child.send(CTRL_C)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_what_is_typed_during_an_answer_waits(start: Start, chatterbox: Path) -> None:
    child = start(chatterbox, "--max-tokens", "1500")
    child.send("go" + ENTER)
    child.expect("hello you")
    child.send("/show" + ENTER)
    child.expect(DONE)
    assert "/show" not in child.before
    child.expect(r"\[1\] go")


def test_keys_complete_commands(start: Start, talker: Path) -> None:
    child = start(talker)
    child.send("/he" + TAB + ENTER)
    child.expect("this list")
    child.expect(PROMPT)
    assert "temperature is now 0.5" in command(child, f"/set tem{TAB}0.5")


def test_an_earlier_text_is_there_to_edit(start: Start, talker: Path) -> None:
    child = start(talker)
    ask(child, "first")
    ask(child, "second")
    child.send("/edit 1" + ENTER)
    child.expect(r"\[1\] ")
    child.expect("first")
    ask(child, " changed")
    shown = command(child, "/show")
    assert "[1] first changed" in shown
    assert "[2]" not in shown
    child.send("/edit 1" + ENTER)
    child.expect("first changed")
    child.send(CTRL_C)
    child.expect("nothing changed")
    child.expect(PROMPT)
    assert "[1] first changed" in command(child, "/show")


def test_save_load_system_and_unknown_commands(start: Start, talker: Path, tmp_path: Path) -> None:
    child = start(talker)
    command(child, "/system be brief")
    ask(child, "hi")
    assert "saved 1 turn" in command(child, f"/save {tmp_path}/t.json")
    command(child, "/reset")
    assert "nothing has been said yet" in command(child, "/show")
    assert "loaded 1 turn" in command(child, f"/load {tmp_path}/t.json")
    assert "system: be brief" in command(child, "/show")
    assert "did you mean /stats?" in command(child, "/stat")
    assert leave(child) == 0


def test_terminals_without_a_cursor_or_colour(start: Start, talker: Path) -> None:
    dumb = start(talker, TERM="dumb")
    dumb.sendline("hi")
    dumb.expect(DONE)
    assert "\x1b" not in dumb.before
    assert SAYS in dumb.before
    dumb.expect(">>> ")
    assert leave(dumb) == 0
    plain = start(talker, NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*[1-9]m", ask(plain, "hi"))
    dim = start(talker)
    assert "\x1b[2m" in ask(dim, "hi")


def test_answers_wrap_at_words(start: Start, chatterbox: Path) -> None:
    """At any width; the answer itself has no line breaks."""
    for columns in (40, 100):
        options = ("--temperature", "0", "--max-tokens", "60")
        child = start(chatterbox, *options, dimensions=(30, columns), COLUMNS=str(columns))
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", ask(child, "hi"))
        lines = shown.split("\n")[1:]
        said = [line for line in lines if "you and the" in line]
        assert len(said) >= 2
        for line in said[:-1]:  # the last may end in the midst of a word
            assert len(line) < columns
            assert set(line.split()) <= {"hello", "you", "and", "the"}, line
        assert leave(child) == 0
