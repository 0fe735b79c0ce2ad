"""The commands of a conversation: names, arguments, help, and the settings that /set changes."""

import difflib
import re
from dataclasses import dataclass, replace

from bmqwen.errors import InputError
from bmqwen.generate.params import PARAMETERS, SamplingParams, in_mode


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `argument` matches what may follow its name; `usage` says it to people."""

    name: str
    usage: str
    summary: str
    argument: str = ""
    aliases: tuple[str, ...] = ()


COMMANDS = (
    Command("/help", "", "this list", aliases=("/?",)),
    Command("/show", "", "the conversation so far, its turns numbered"),
    Command("/reset", "", "start a new conversation; the system message stays", aliases=("/clear",)),
    Command("/system", "[TEXT]", 'show or change the system message; "" removes it', r"(?s).*"),
    Command("/regen", "", "another answer to the last question", aliases=("/retry",)),
    Command(
        "/edit", "N [TEXT]", "change what you wrote in turn N, and go on from there", r"(?s)\d{1,9}(\s.*)?"
    ),
    Command("/set", "[NAME VALUE]", "show or change settings, such as temperature 0.7", r".*"),
    Command("/read", "FILE", "attach a text file to the next message", r".+"),
    Command(
        "/overflow", "[drop|refuse]", "when the context is full: leave out the oldest turns, or refuse", r".*"
    ),
    Command("/stats", "", "speed, and how full the context is"),
    Command("/save", "FILE", "keep the conversation in a file", r".+"),
    Command("/load", "FILE", "go on with a conversation from a file", r".+"),
    Command("/exit", "", "leave", aliases=("/quit", "/bye")),
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def find(name: str, argument: str) -> Command:
    """Return the command called `name`. Raises InputError for an unknown name or an argument that it does not take."""
    command = _BY_NAME.get(name.lower())
    if command is None:
        near = [name for name in difflib.get_close_matches(name.lower(), _BY_NAME, n=1) if len(name) > 2]
        hint = f"did you mean {near[0]}?" if near else "/help lists them"
        raise InputError(f"unknown command {name[:40]}: {hint} (to send text that begins with /, write //)")
    if not re.fullmatch(command.argument, argument):
        raise InputError(f"usage: {command.name} {command.usage}".rstrip())
    return command


def is_script(text: str) -> bool:
    """Return whether piped text is to be taken line by line: some line is a known command."""
    for line in text.splitlines():
        name, _, argument = line.rstrip().partition(" ")
        if name in _BY_NAME and re.fullmatch(_BY_NAME[name].argument, argument.strip()):
            return True
    return False


def help_text() -> str:
    """Return all commands and keys, for people."""
    rows = []
    for command in COMMANDS:
        also = f" (also {', '.join(command.aliases)})" if command.aliases else ""
        rows.append((f"{command.name} {command.usage}".rstrip(), command.summary + also))
    rows += [
        ('"""', 'a line of """ begins a text of many lines, another ends it'),
        ("//text", "send text that begins with /"),
        ("Alt-Enter, Ctrl-J", "a new line"),
        ("Up, Ctrl-R, Tab", "earlier entries, search them, complete a command"),
        ("Ctrl-C", "stop the answer; at the prompt: clear the line, twice: leave"),
        ("Ctrl-D", "leave"),
    ]
    width = max(len(left) for left, _ in rows) + 2
    return "\n".join(f"  {left:<{width}}{right}" for left, right in rows)


_ROWS = {row.name: row for row in PARAMETERS}
SETTINGS = tuple(_ROWS)


def settings_text(params: SamplingParams) -> str:
    """Return all settings, a line each."""
    return "\n".join(f"  {name:<20}{row.text(getattr(params, name))}" for name, row in _ROWS.items())


def _for_thinking(params: SamplingParams, thinking: bool, defaults: SamplingParams) -> SamplingParams:
    """Return the parameters with the defaults of a model that is to think, or not to, where they are defaults."""
    now = defaults.enable_thinking if params.enable_thinking is None else params.enable_thinking
    before, after = (in_mode(defaults, mode) for mode in (now is not False, thinking))
    kept = (name for name in defaults.other_mode if getattr(params, name) == getattr(before, name))
    return replace(params, **{name: getattr(after, name) for name in kept})


def change_setting(params: SamplingParams, text: str, defaults: SamplingParams) -> tuple[SamplingParams, str]:
    """Apply "temperature 0.7"; return the new parameters, and a line that says what they are now.

    The value "default" takes a setting back to that of `defaults`, "none" turns it off.
    Raises InputError for an unknown name or a bad value.
    """
    written, _, value = text.replace("=", " ", 1).strip().partition(" ")
    name, value = written.lower().replace("-", "_"), value.strip()
    row = _ROWS.get(name)
    if row is None:
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}"
        raise InputError(f"unknown setting {written[:40]}: {hint}")
    if not value:
        return params, f"{name} is {row.text(getattr(params, name))}"
    match value.lower():
        case "default":
            new = getattr(defaults, name)
        case "none":
            new = row.default
        case "off" if row.kind != "switch":
            new = row.default
        case _:
            new = row.parse(value)
    if name == "enable_thinking":
        wanted = defaults.enable_thinking if new is None else new
        params = _for_thinking(params, wanted is not False, defaults)
    params = replace(params, **{name: new})
    return params, f"{name} is now {row.text(getattr(params, name))}"
