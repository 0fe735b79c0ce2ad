"""The prompt on a terminal: editing, history, completion."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from bmqwen.cli.repl.commands import COMMANDS, SETTINGS
from bmqwen.cli.repl.entry import Interrupted, LineSource, is_open

_LARGEST_HISTORY = 2_000_000  # bytes


class LineEditor(LineSource):
    """Reads entries with prompt_toolkit. Enter sends, Alt-Enter and Ctrl-J begin a new line, Ctrl-C clears."""

    def __init__(self) -> None:
        # On stderr where stdout goes into a file.
        output = create_output(always_prefer_tty=True)
        if isinstance(output, Vt100_Output):
            # Nothing here needs to know the cursor's row, and a slow line would mix up question and typing.
            output.enable_cpr = False
        self._session: PromptSession[str] = PromptSession(
            history=_open_history(),
            completer=CommandCompleter(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True,
            prompt_continuation=lambda width, _line, wraps: " " * width if wraps else "... ".ljust(width),
            key_bindings=_keys(),
            enable_suspend=True,
            enable_open_in_editor=True,
            output=output,
        )

    def read(self, prompt: str, default: str = "") -> str:
        """Read one entry, whole: a block is read to its end."""
        return self._session.prompt(prompt, default=default)


class CommandCompleter(Completer):
    """Completes commands, the names of settings, and the paths of files."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what could stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        word, space, argument = text.partition(" ")
        if not space:
            yield from _beginning_with(word, [command.name for command in COMMANDS])
        elif word == "/set" and " " not in argument:
            yield from _beginning_with(argument, SETTINGS)
        elif word in ("/save", "/load", "/read"):
            yield from PathCompleter(expanduser=True).get_completions(Document(argument), complete_event)


def _beginning_with(start: str, words: Iterable[str]) -> Iterator[Completion]:
    return (Completion(word + " ", -len(start), display=word) for word in words if word.startswith(start))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        if is_open(event.current_buffer.text):
            event.current_buffer.newline(copy_margin=False)
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(exception=Interrupted(bool(event.current_buffer.text)), style="class:aborting")

    return keys


class _FileHistory(FileHistory):
    """A history whose file may become unwritable without anyone being bothered."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string.encode("utf-8", "replace").decode())


def _open_history() -> History:
    """Open the file of all entries, only for its owner's eyes; forgotten at exit where there can be no file."""
    path = Path(platformdirs.user_state_dir("bmqwen")) / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return InMemoryHistory()
    with os.fdopen(handle, "r+b") as file:
        os.fchmod(handle, 0o600)
        if os.fstat(handle).st_size > _LARGEST_HISTORY:
            file.seek(-_LARGEST_HISTORY // 2, os.SEEK_END)
            # An entry begins with a blank line and its date.
            newest = file.read().partition(b"\n\n# ")[2]
            file.seek(0)
            file.write(b"\n# " + newest)
            file.truncate()
    return _FileHistory(str(path))
