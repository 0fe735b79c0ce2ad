"""Options that several commands share, each written once, and what they stand for."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmqwen.cli.interrupts import left_by_force
from bmqwen.cli.terminal import argument_text, progress_bar
from bmqwen.errors import InputError
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS, Parameter
from bmqwen.quant import ChipFormat, Format
from bmqwen.runtime.registry import EngineName

if TYPE_CHECKING:
    from bmqwen.engine import Engine as LoadedEngine
    from bmqwen.quant.precision import PrecisionOptions as PrecisionOptions

_DEVICE_LIMIT = 4096

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Short name (qwen1.5-0.5b-chat), hub id, folder, GGUF file or bundle; default: the demo model.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Engine = Annotated[
    EngineName,
    typer.Option(
        help="What runs the model; tpu: the chip, through SAIL if it is installed, else through libbmrt."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Chip to use, numbered from 0 as in `bm-smi`; for a model in parts, its first chip or all of them, as in "
        "0,2.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="CPU threads; default: all cores.")]
Context = Annotated[int | None, typer.Option(min=1, help="Context length in tokens; default: the model's.")]
Draft = Annotated[
    str,
    typer.Option(
        metavar="auto|off|MODEL",
        help="What guesses tokens, several of which the model checks in one step: auto: text that occurred before; "
        "MODEL: also a smaller model with the same vocabulary; off: nothing.",
    ),
]
Quant = Annotated[
    Format | None,
    typer.Option(
        help="Weight format; default: that of a quantised checkpoint, else int4. A bundle keeps its own."
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        help="Columns that share a scale: 16, 32, 64, 128 or 256; default: that of a quantised checkpoint, else 64."
    ),
]
LmHead = Annotated[
    Format | None,
    typer.Option(
        help="Weight format of the output layer; default: that of a quantised checkpoint, else as --quant."
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="LoRA adapter (PEFT) to merge into the model on conversion."),
]
Offline = Annotated[bool, typer.Option("--offline", envvar="BMQWEN_OFFLINE", help="Never use the network.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write to.")]
# How a model would be compiled, for questions about it.
ChipQuant = Annotated[
    ChipFormat | None,
    typer.Option(
        help="Weight format; default: that of a quantised checkpoint, else int4. A bundle keeps its own.",
    ),
]
ChipHead = Annotated[
    ChipFormat | None,
    typer.Option(
        help="Weight format of the output layer; default: that of a quantised checkpoint, else as --quant."
    ),
]
SeqLen = Annotated[int | None, typer.Option(help="Context length on the chip, in tokens; default: 512.")]
Sequences = Annotated[
    int | None,
    typer.Option(
        "--sequences",
        metavar="N",
        help="Conversations computed side by side, each with --seq-len tokens; default: 8, or as memory allows.",
    ),
]
ChipSequences = Annotated[
    int,
    typer.Option(
        "--sequences",
        metavar="N",
        help="Conversations side by side on the chip, each with --seq-len tokens; a bundle has its own number.",
    ),
]
Parts = Annotated[
    str,
    typer.Option(
        "--parts",
        metavar="N|auto",
        help="Number of chips to divide the layers among; auto: as few as have enough memory.",
    ),
]
Drafts = Annotated[
    bool,
    typer.Option(
        "--drafts/--no-drafts",
        help="Include nets that check drafted tokens: up to 16 of one conversation in a step.",
    ),
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in BF16 instead of F16.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, help="Nets to compile in parallel; default: as many as memory and processors allow."
    ),
]


# What a command gets in place of the options: the sampling parameters that were given, by name.
Sampling = dict[str, Any]


def grouped(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put options in the place of a command's arguments: those that the function of an argument's name takes.

    The command gets what the function returns.
    """
    signatures = {name: inspect.signature(group).parameters for name, group in groups.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{option: values.pop(option) for option in signatures[name]})
            command(**values)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            parameters += signatures.get(parameter.name, {parameter.name: parameter}).values()
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def sampling_options(*, server: bool = False) -> Callable[..., Sampling]:
    """Return a group of an option for each sampling parameter; with `server`, of requests that leave them open."""
    rows = {row.name: row for row in PARAMETERS if not (server and row.per_answer)}
    panel = "Sampling, for requests that do not set it" if server else "Sampling"

    def given(**values: Any) -> Sampling:
        for name, texts in values.items():
            if rows[name].kind == "texts":
                values[name] = tuple(argument_text(text, rows[name].option) for text in texts or ()) or None
        return {name: value for name, value in values.items() if value is not None}

    options = [_sampling_option(row, panel) for row in rows.values()]
    given.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return given


def _sampling_option(row: Parameter, panel: str) -> inspect.Parameter:
    kind: Any = {"number": float, "integer": int, "texts": list[str], "switch": bool}[row.kind]
    default = {"max_tokens": str(MAX_TOKENS), "thinking_budget": "no limit"}.get(row.name, "the model's")
    parts = [
        row.en.help,
        "repeatable" if row.kind == "texts" else "",
        "" if row.per_answer else f"default: {default}",
    ]
    text = "; ".join(filter(None, parts)) + "."
    declared = f"{row.option}/--no-{row.option[2:]}" if row.kind == "switch" else row.option
    option = typer.Option(declared, help=text, show_default=False, rich_help_panel=panel)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def device_ids(text: str) -> list[int]:
    """Return the ids in "0" or "0,1,2". Raises InputError for anything else, and for an id that stands there twice."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part[:9]) < _DEVICE_LIMIT for part in parts):
        raise InputError(
            f"--device {text[:40]!r} is not a list of chips: write a number, or several as in 0,1"
        )
    ids = [int(part) for part in parts]
    if len(set(ids)) < len(ids):
        raise InputError(f"--device {text[:40]} names a chip twice")
    return ids


def part_count(text: str) -> int | None:
    """Return the number in --parts, None for auto. Raises InputError for anything else."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) < _DEVICE_LIMIT):
        raise InputError(f"--parts {text[:40]!r} is not a number of chips: write auto, or a number from 1 on")
    return int(text)


def precision(
    quant: Quant = None, group_size: GroupSize = None, lm_head: LmHead = None
) -> "PrecisionOptions":
    """Return what is said of the precision to convert to."""
    from bmqwen.quant.precision import PrecisionOptions

    return PrecisionOptions(quant, group_size, lm_head)


def chip_precision(
    quant: ChipQuant = None, group_size: GroupSize = None, lm_head: ChipHead = None
) -> "PrecisionOptions":
    """Return what is said of the precision to compile in."""
    return precision(quant, group_size, lm_head)


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded."""

    quant: Quant = None
    group_size: GroupSize = None
    lm_head: LmHead = None
    adapter: Adapter = None
    device: Device = "0"
    threads: Threads = None
    context: Context = None
    draft: Draft = "auto"
    offline: Offline = False

    def load(self, model: str | None, engine: EngineName) -> "LoadedEngine":
        """Load MODEL, showing download, conversion and loading on stderr. Raises what `bmqwen.engine.load` raises."""
        from bmqwen.hub.catalog import check_name

        check_name(model)  # said before the engine is imported, which takes a while
        from bmqwen.engine import load
        from bmqwen.generate.sandbox import SANDBOX

        device = device_ids(self.device)
        chosen = precision(self.quant, self.group_size, self.lm_head)
        SANDBOX.start()  # by the time the model is loaded, it is ready
        with left_by_force(), progress_bar() as bar:
            return load(
                model,
                engine,
                precision=chosen,
                adapter=self.adapter,
                threads=self.threads,
                context_length=self.context,
                offline=self.offline,
                progress=bar,
                chats=True,
                device=device,
                draft=self.draft,
            )
