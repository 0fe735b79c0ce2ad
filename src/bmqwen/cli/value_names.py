"""What `--help` calls the values of options: N and TEXT in place of a programming language's types."""

from typing import Any

import typer

# By what newer typers print; older ones print words for people. Choices list themselves and stay.
_NAMES = {
    "<bool>": None,
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "PATH",
}


def name_values(command: Any) -> Any:
    """Name the values of a command and of all below it, where they have no name yet; returns `command`."""
    top = typer.Context(command, info_name=command.name, **command.context_settings)
    for one in [command, *getattr(command, "commands", {}).values()]:
        context = top if one is command else typer.Context(one, info_name=one.name, parent=top)
        # The help option is made on demand and then kept, but is none of `params`.
        for parameter in [*one.params, one.get_help_option(context)]:
            _name_value(parameter, context)
    return command


def _name_value(parameter: Any, context: typer.Context) -> None:
    kind = parameter.display_type(context) if hasattr(parameter, "display_type") else ""
    argument = parameter.param_type_name == "argument"
    if kind in _NAMES and (argument or parameter.metavar is None):
        # An argument's name says it already; an option without a value needs no word.
        name = None if argument else _NAMES[kind]
        parameter.display_type_rich = lambda ctx, name=name: name  # noqa: ARG005  (typer passes it)
