"""Print the option tables of the guides, from the commands themselves: cog calls `table` where a guide says so.

`cog -P -r -I docs docs/*/*.md` writes the tables into the guides; with `--check` in place of `-r` it only compares.
The meaning in Chinese stands in options.zh.json beside the English help that it translates.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from bmqwen.cli.app import app
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS

TRANSLATIONS = Path(__file__).with_name("options.zh.json")
HEADS = {
    "en": ("option", "default", "meaning"),
    "zh": ("选项", "默认值", "含义"),
}
SAMPLING = {row.option: row for row in PARAMETERS}
JOINT = {"en": ", ", "zh": "、"}


def commands_of(group: Any, above: str = "") -> dict[str, Any]:
    """All commands by their names, such as "serve" and "cluster serve", without the groups that they are in."""
    found = {}
    for name, command in group.commands.items():
        inner = commands_of(command, f"{above}{name} ") if hasattr(command, "commands") else {}
        found |= inner or {above + name: command}
    return found


COMMANDS = commands_of(typer.main.get_command(app))


def table(command: str, language: str) -> None:
    """Print the table of a command's options in Markdown.

    Raises SystemExit, with what to do, where a translation is missing or the English text has changed since.
    """
    print()
    print("|", " | ".join(HEADS[language]), "|")
    print("|---|---|---|")
    for option in options(command):
        names = JOINT[language].join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        print("|", " | ".join((names, _default(option), meaning(command, option, language))), "|")
    print()


def options(command: str) -> list[Any]:
    """The options of a command that `--help` shows."""
    found = COMMANDS[command].params
    return [param for param in found if param.param_type_name == "option" and not param.hidden]


def meaning(command: str, option: Any, language: str) -> str:
    """What `--help` says of an option, or its translation; with the values that it can take."""
    text = option.help
    if language == "zh":
        text = translation(command, option)
    listed = JOINT[language].join(f"`{choice}`" for choice in _choices(option.type_descriptor.annotation))
    text = text.rstrip(".").replace("|", "\\|")
    if not listed:
        return str(text)
    return f"{text}: {listed}" if language == "en" else f"{text}：{listed}"


def translation(command: str, option: Any) -> str:
    """The Chinese text of an option; that of a sampling parameter stands in its table."""
    row = SAMPLING.get(option.opts[-1])
    if row is not None and command in ("chat", "serve"):
        known = {"max_tokens": f"默认为 {MAX_TOKENS}", "thinking_budget": "默认不限"}
        default = known.get(row.name, "默认取自模型")
        parts = [row.zh.help, "可重复" * (row.kind == "texts"), default * (not row.per_answer)]
        return "；".join(filter(None, parts))
    known = json.loads(TRANSLATIONS.read_text(encoding="utf-8"))
    for key in (f"{command} {option.opts[-1]}", option.opts[-1]):
        if key in known and known[key][0] == option.help:
            return str(known[key][1])
    raise SystemExit(
        f"docs/options.zh.json has no translation of `bmqwen {command} {option.opts[-1]}`: {option.help!r}"
    )


def _choices(annotation: Any) -> tuple[str, ...]:
    """The values of a Literal, also of one that may be None."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _default(option: Any) -> str:
    """A default that can be typed; none for a switch."""
    value = option.default
    if option.is_flag or value is None or value == ():
        return ""
    value = getattr(value, "value", value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
