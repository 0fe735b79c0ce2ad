"""The program `bmqwen`: its commands, and the one place where errors become exit codes."""

import errno
import re
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.cli.commands import (
    bench,
    chat,
    cluster,
    doctor,
    embed,
    estimate,
    evaluate,
    export,
    info,
    pull,
    quantize,
    serve,
    verify,
)
from bmqwen.cli.commands import compile as compile_command
from bmqwen.cli.interrupts import exit_of, heeding_signals
from bmqwen.cli.terminal import discard_stdout, open_streams, use_utf8
from bmqwen.errors import BmqwenError
from bmqwen.version import __version__

# The base of all errors of usage; typer has its own copy of click, which of the two depends on its version.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

# How a value that does not fit is called by typer's checker, and by us.
_PLAIN_WORDS = (
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid boolean.*", "it must be 1 or 0"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"it must be at most \1"),
    (r"Input should be ", "it must be "),
    (r"Got unexpected extra argument\(s\) \((.*)\)", r"there is no place for \1 here"),
)


# What `--help` calls values, in place of a programming language's types. Choices list themselves and stay.
_VALUE_NAMES = {
    "<bool>": None,
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "PATH",
    "<list[Path]>": "PATH",
}


class _Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C or SIGTERM, its cause, ended a command."""


class _Commands(TyperGroup):
    """Typer's own group would leave with 130 and without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as press:
            raise _Interrupted from press


app = typer.Typer(
    name="bmqwen",
    cls=_Commands,
    help=f"Qwen chat models on SOPHON {DEFAULT_CHIP.name}: from the checkpoint to an answer, on the chip or this "
    "machine's CPU.",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("chat")(chat.chat)
app.command("pull")(pull.pull)
app.command("list")(pull.list_models)
app.command("remove")(pull.remove)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("compile")(compile_command.compile_)
app.command("info")(info.info)
app.command("estimate")(estimate.estimate)
app.command("evaluate")(evaluate.evaluate)
app.command("verify")(verify.verify)
app.command("bench")(bench.bench)
app.command("embed")(embed.embed)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(cluster.app, name="cluster")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bmqwen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  (its callback does the work)
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line that the program was started with, and leave with its exit code."""
    open_streams()
    use_utf8()
    try:
        with heeding_signals():
            code = run(sys.argv[1:])
    except KeyboardInterrupt as press:  # before the command began, or after it had ended
        words, code = exit_of(press)
        _say(words)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an expected error is one line on stderr."""
    try:
        program = _name_values(typer.main.get_command(app))
        result = program(args=arguments, prog_name="bmqwen", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx else _command_of(program, arguments)
        _say(f"bmqwen: {_plain(error.format_message()).rstrip('.')} (`{where} --help` shows what there is)")
        return int(error.exit_code)
    except BmqwenError as error:
        _say(f"bmqwen: {error}")
        return error.exit_code
    except (_Interrupted, KeyboardInterrupt, typer.Abort) as end:
        words, code = exit_of(end.__cause__ if isinstance(end, _Interrupted) else end)
        _say(words)
        return code
    except BrokenPipeError:
        discard_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Every file is opened by its name; what has none is stdout.
        unwritable = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
        if error.filename is not None or error.errno not in unwritable:
            raise
        discard_stdout()
        _say(f"bmqwen: the output cannot be written: {error.strerror}")
        return 1
    except MemoryError:
        _say("bmqwen: not enough memory on this machine for this model: use a smaller one or --quant int4")
        return 1


def _plain(message: str) -> str:
    """Put a complaint about usage into words for people: newer typers speak as their checker of types does."""
    message = message.replace("Value error, ", "")
    for pattern, words in _PLAIN_WORDS:
        message = re.sub(pattern, words, message)
    return message


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr)


def _command_of(program: Any, arguments: list[str]) -> str:
    """The command that arguments begin with: click names none for an option without its value."""
    words = ["bmqwen"]
    for word in arguments:
        if (program := getattr(program, "commands", {}).get(word)) is None:
            break
        words.append(word)
    return " ".join(words)


def _name_values(command: Any) -> Any:
    """Name the values of a command and of all below it, where they have no name yet; returns `command`."""
    top = typer.Context(command, info_name=command.name, **command.context_settings)
    for one, context in _with_all_below(command, top):
        # The help option is made on demand and then kept, but is none of `params`.
        for parameter in [*one.params, one.get_help_option(context)]:
            _name_value(parameter, context)
    return command


def _with_all_below(command: Any, context: typer.Context) -> Iterator[tuple[Any, typer.Context]]:
    """A command and those below it, each with its context."""
    yield command, context
    for one in getattr(command, "commands", {}).values():
        yield from _with_all_below(one, typer.Context(one, info_name=one.name, parent=context))


def _name_value(parameter: Any, context: typer.Context) -> None:
    kind = parameter.display_type(context) if hasattr(parameter, "display_type") else ""
    argument = parameter.param_type_name == "argument"
    if kind in _VALUE_NAMES and (argument or parameter.metavar is None):
        # An argument's name says it already; an option without a value needs no word.
        name = None if argument else _VALUE_NAMES[kind]
        parameter.display_type_rich = lambda ctx, name=name: name  # noqa: ARG005  (typer passes it)
