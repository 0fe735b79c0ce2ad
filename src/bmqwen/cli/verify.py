"""`bmqwen verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bmqwen.cli import options
from bmqwen.cli.output import STDERR, print_json, progress_bar
from bmqwen.errors import InputError

if TYPE_CHECKING:
    from bmqwen.verify import VerifyReport

# Beyond this a run needs --yes.
PATIENCE_SECONDS = 3600


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `bmqwen compile` made.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="MODEL", help="What it was compiled from; default: as the bundle says."
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=0, help="Cached tokens that nets are run after, at most.")
    ] = 64,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            metavar="LIST",
            help='Only these nets: "1,8x512" is those of 1 token, and that of 8 after 512.',
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin even where it takes hours.")] = False,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Compare a bundle's nets on the vendor's simulator with the float model; exit code 1 if one is off."""
    from bmqwen.bundle import read_bundle
    from bmqwen.checkpoint.checkpoint import open_checkpoint
    from bmqwen.checkpoint.hub import Hub
    from bmqwen.compiler.toolchain import open_toolchain
    from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
    from bmqwen.verify import check_same_model, choose_stages, duration, estimate_seconds
    from bmqwen.verify import verify as compare

    opened = read_bundle(bundle)
    if opened.kind != "bmodel":
        raise InputError(f"{bundle} is no compiled model: `bmqwen compile` makes one")
    shapes = choose_stages(opened, stages)
    seconds = estimate_seconds(opened.config, shapes)
    if seconds > PATIENCE_SECONDS and not yes:
        least = min(shapes, key=lambda shape: estimate_seconds(opened.config, [shape]))
        raise InputError(
            f"the simulator would take about {duration(seconds)} for {len(shapes)} nets: name some "
            f"(--stages {least.tokens}x{least.history}: about "
            f"{duration(estimate_seconds(opened.config, [least]))}), compile a model with --layers 1 for the "
            "purpose, or add --yes"
        )
    STDERR.print(f"{len(shapes)} nets, about {duration(seconds)} on the simulator", markup=False)
    opened.verify_files()
    with progress_bar() as bar:
        path = Hub(offline=offline or None).resolve(against or _source(opened.details, bundle), progress=bar)
    with open_checkpoint(path) as checkpoint:
        check_same_model(opened, checkpoint)
        runtime = SimulatedRuntime(opened, open_toolchain().simulator_folder)
        try:
            with STDERR.status("starting") as status:

                def tell(line: str) -> None:
                    status.update(line)
                    if not STDERR.is_terminal:
                        STDERR.print(line, markup=False, soft_wrap=True)

                result = compare(opened, checkpoint, runtime, shapes, tokens=tokens, report=tell)
        finally:
            runtime.close()
    if json:
        print_json(result.to_dict())
    else:
        _print(result)
    if not result.passed:
        raise typer.Exit(1)


def _source(details: dict[str, Any], bundle: Path) -> str:
    """The checkpoint that the bundle names, where it still exists."""
    named = details.get("checkpoint")
    if isinstance(named, str) and Path(named).exists():
        return named
    gone = (
        f"what {bundle} was compiled from ({named}) is gone" if named else f"{bundle} does not say its source"
    )
    raise InputError(f"{gone}: name the checkpoint with --against")


def _print(result: "VerifyReport") -> None:
    table = Table(box=SIMPLE)
    quantised = any(stage.to_grid for stage in result.stages)
    for heading in ("net", "cached", *(["to its grid: logits", "K/V"] if quantised else [])):
        table.add_column(heading, justify="right")
    for heading in ("to float32: logits", "K/V", "largest error", "token", ""):
        table.add_column(heading, justify="right")
    for stage in result.stages:
        grid, plain = stage.to_grid, stage.to_float
        table.add_row(
            f"{stage.tokens}x{stage.history}",
            f"{stage.cached}",
            *((f"{grid.logits_cosine:.6f}", f"{grid.cache_cosine:.6f}") if grid else ()),
            *(f"{plain.logits_cosine:.6f}", f"{plain.cache_cosine:.6f}"),
            f"{(grid or plain).logits_error:.4f}",
            "same" if (grid or plain).same_token else "differs",
            "passed" if stage.passed else "FAILED",
        )
    Console(soft_wrap=True).print(table)
    against = "the float result of the same grid" if quantised else "float32"
    verdict = "passed" if result.passed else "FAILED"
    typer.echo(
        f"{result.model}, {result.precision}: {verdict}; {len(result.stages)} of {result.nets} nets, "
        f"cosine to {against} at least {result.threshold}"
    )
