"""The conversation in a terminal."""

import os
import signal
from functools import partial
from pathlib import Path

import typer

from bmqwen.cli.interrupts import Insisted, Terminated
from bmqwen.cli.repl import commands, entry
from bmqwen.cli.repl.answer import Ask, drop_note, print_end, stats_line, stream, totals_line
from bmqwen.cli.repl.attachment import Attachment, read_attachment
from bmqwen.cli.repl.calls import with_calls
from bmqwen.cli.repl.entry import Entry, Interrupted, LineSource, PlainTerminal, Script
from bmqwen.cli.terminal import can_edit, note, print_error, put
from bmqwen.engine import Engine
from bmqwen.errors import BmqwenError, InputError
from bmqwen.generate import transcript
from bmqwen.generate.conversation import Conversation
from bmqwen.generate.params import Completion, Usage
from bmqwen.util.text import counted

PROMPT, MORE = ">>> ", "... "


class Repl:
    """Reads messages and commands, shows answers. An error is one line, and the conversation goes on."""

    def __init__(self, engine: Engine, conversation: Conversation) -> None:
        self._engine = engine
        self._conversation = conversation
        self._conversation.on_drop = drop_note
        self._source: LineSource = Script("")
        self._usages: list[Usage] = []
        self._attached: list[Attachment] = []

    def run(self, script: str | None = None) -> None:
        """Talk until the user leaves. With `script`, its lines are taken as if they were typed.

        A script leaves with the exit code of its first error, if there was one.
        """
        if script is not None:
            self._source = Script(script)
            if code := self._talk(scripted=True):
                raise typer.Exit(code)
            return
        self._source = _terminal()
        runtime = self._engine.runtime
        note(
            f"{self._engine.model} · {self._engine.precision}\n"
            f"{runtime.name} · context {runtime.context_length:,} tokens · /help for commands\n",
            dim=False,
        )
        self._talk(scripted=False)

    def _talk(self, *, scripted: bool) -> int:
        """Take entries until the end; the exit code of the first error, or 0."""
        code = 0
        interrupts = 0
        while True:
            try:
                text = entry.read(partial(self._source.read, PROMPT), partial(self._source.read, MORE))
                interrupts = 0
                if not text.strip():
                    continue
                self._do(entry.parse(text))
            except Interrupted as press:
                interrupts = 1 if press.had_text else interrupts + 1
                if interrupts > 1:
                    return code
                note("Ctrl-C again or Ctrl-D leaves")
                continue
            except KeyboardInterrupt as press:
                if scripted or isinstance(press, (Insisted, Terminated)):
                    raise
                note("stopped")
            except EOFError:
                return code
            except BmqwenError as error:
                code = code or error.exit_code
                print_error(error)
            if not scripted:
                note("")

    def _do(self, given: Entry) -> None:
        if given.command:
            name = commands.find(given.command, given.text).name
            getattr(self, f"_{name[1:]}")(given.text)  # what follows is a method for each command
        else:
            text = "\n\n".join([*(file.block() for file in self._attached), given.text])
            self._answer(partial(self._conversation.reply, text))
            self._attached.clear()

    def _answer(self, ask: Ask) -> Completion:
        completion = stream(ask)
        self._usages.append(completion.usage)
        print_end(completion, self._conversation.params.max_tokens)
        if completion.finish_reason == "cancelled" and isinstance(self._source, Script):
            raise typer.Exit(128 + signal.SIGINT)
        return completion

    def _help(self, _: str) -> None:
        _say(commands.help_text())

    def _show(self, _: str) -> None:
        conversation = self._conversation
        blocks = [] if conversation.system is None else [f"system: {conversation.system}"]
        for number, turn in enumerate(conversation.turns, 1):
            unseen = "  (no longer seen by the model)" if number <= conversation.dropped_turns else ""
            blocks += [f"[{number}] {turn.user}{unseen}", with_calls(turn.answer).rstrip()]
        _say("\n\n".join(blocks) if conversation.turns else "\n".join([*blocks, "nothing has been said yet"]))

    def _reset(self, _: str) -> None:
        self._attached.clear()
        self._conversation.reset()
        note("new conversation" + ("" if self._conversation.system is None else ", same system message"))

    def _system(self, text: str) -> None:
        if text:
            self._conversation.set_system("" if text in ('""', "''") else text)
            note("no system message" if self._conversation.system is None else "system message changed")
        else:
            _say(self._conversation.system or "no system message of your own")

    def _regen(self, _: str) -> None:
        conversation = self._conversation
        before = conversation.turns[-1].answer if conversation.turns else None
        again = self._answer(conversation.regenerate)
        if again.text == before and conversation.params.temperature == 0:
            note("the same answer, since temperature is 0: `/set temperature 0.7` lets it vary")

    def _edit(self, argument: str) -> None:
        number, *rest = argument.split(maxsplit=1)
        turns = self._conversation.turns
        if not 1 <= int(number) <= len(turns):
            raise InputError(
                f"there is no turn {number}: the conversation has {len(turns)} (/show numbers them)"
            )
        text = rest[0] if rest else self._read_again(f"[{number}] ", turns[int(number) - 1].user)
        if text:
            self._answer(partial(self._conversation.edit, int(number) - 1, text))

    def _read_again(self, prompt: str, old: str) -> str:
        """Return what the user makes of an old text; nothing if it is given up."""
        try:
            return entry.unwrap(
                entry.read(partial(self._source.read, prompt, old), partial(self._source.read, MORE))
            )
        except Interrupted:
            note("nothing changed")
            return ""

    def _set(self, text: str) -> None:
        if not text:
            _say(commands.settings_text(self._conversation.params))
            return
        self._conversation.params, line = commands.change_setting(
            self._conversation.params, text, self._engine.params
        )
        note(line)

    def _read(self, text: str) -> None:
        session = self._conversation.session
        file = read_attachment(_path(text))
        tokens = len(session.tokenizer.encode(file.block()))
        if tokens > session.longest_prompt:
            raise InputError(
                f"{file.name} has {tokens:,} tokens, {session.longest_prompt:,} fit into the context: attach a part"
            )
        self._attached.append(file)
        note(f"{file.name}: {counted(tokens, 'token')}, goes with your next message (/reset drops it)")

    def _overflow(self, text: str) -> None:
        if text and text not in ("drop", "refuse"):
            raise InputError("usage: /overflow [drop|refuse]")
        conversation = self._conversation
        conversation.drops = text == "drop" if text else conversation.drops
        what = "the oldest turns are left out" if conversation.drops else "the question is refused"
        note(f"when the context is full, {what}")

    def _stats(self, _: str) -> None:
        session = self._conversation.session
        _say(f"  model       {self._engine.model}, {self._engine.precision}")
        _say(f"  engine      {self._engine.runtime.name}")
        used = len(session.tokens) if self._conversation.turns else 0
        _say(f"  context     {used:,} of {session.runtime.context_length:,} tokens used")
        turns, dropped = len(self._conversation.turns), self._conversation.dropped_turns
        _say(f"  turns       {turns}" + (f", of which {dropped} no longer fit" if dropped else ""))
        if self._conversation.last is not None:
            _say(f"  last        {stats_line(self._conversation.last.usage)}")
        if self._usages:
            _say(f"  all         {totals_line(self._usages)}")

    def _save(self, text: str) -> None:
        path = _path(text)
        if os.path.lexists(path):
            try:
                transcript.read(path)
            except InputError:
                raise InputError(
                    f"{path} exists and is not a saved conversation: choose another name"
                ) from None
        self._conversation.save(path)
        note(f"saved {counted(len(self._conversation.turns), 'turn')} to {path}")

    def _load(self, text: str) -> None:
        path = _path(text)
        self._conversation.load(path)
        note(f"loaded {counted(len(self._conversation.turns), 'turn')} from {path}; /show prints them")

    def _exit(self, _: str) -> None:
        raise EOFError


def _terminal() -> LineSource:
    """Return what reads from this terminal."""
    if not can_edit():
        return PlainTerminal()
    # Takes a moment, and only a terminal needs it.
    from bmqwen.cli.repl.line_editor import LineEditor

    return LineEditor()


def _say(text: str) -> None:
    put(text + "\n")


def _path(text: str) -> Path:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    try:
        return Path(text[1:-1] if quoted else text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text} cannot be used as a path: {error}") from None
