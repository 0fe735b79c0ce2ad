"""`bmqwen verify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import STDERR, print_result, progress_bar
from bmqwen.errors import InputError
from bmqwen.util.text import counted

if TYPE_CHECKING:
    from bmqwen.evaluation.verify import VerifyReport

# Beyond this a run needs --yes.
PATIENCE_SECONDS = 3600


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle made by `bmqwen compile`.")],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Checkpoint that it was compiled from; default: the one that the bundle names.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=0, help="Longest history to run the nets after, in tokens.")
    ] = 64,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help='Check only these nets: "1,8x512" means all of 1 token, and the one of 8 tokens after 512.',
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Start even if it will take hours.")] = False,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Compare a bundle's nets, run on the vendor's simulator, with the float model; exit code 1 if one differs."""
    from bmqwen.artifact.bundle import read_bundle
    from bmqwen.compiler.toolchain import open_toolchain
    from bmqwen.evaluation.bundle_source import source_of
    from bmqwen.evaluation.verify import choose_nets, duration, estimate_seconds
    from bmqwen.evaluation.verify import verify as compare
    from bmqwen.hub.hub import Hub
    from bmqwen.runtime.bmrt.simulated import SimulatedRuntime, open_simulators

    opened = read_bundle(bundle)
    if opened.kind != "bmodel" or opened.is_published:
        raise InputError(f"{bundle} was not made by `bmqwen compile`: only such a bundle can be verified")
    shapes = choose_nets(opened, stages)
    seconds = estimate_seconds(opened.config, shapes)
    if seconds > PATIENCE_SECONDS and not yes:
        least = min(shapes, key=lambda shape: estimate_seconds(opened.config, [shape]))
        # As few as can be compiled: up to the first with a K/V cache.
        layers = opened.config.kv_layers[0] + 1
        raise InputError(
            f"the simulator would take about {duration(seconds)} for {counted(len(shapes), 'net')}: name some "
            f"(--stages {least.tokens}x{least.history}: about "
            f"{duration(estimate_seconds(opened.config, [least]))}), compile a model with --layers "
            f"{layers} for the purpose, or add --yes"
        )
    STDERR.print(f"{counted(len(shapes), 'net')}, about {duration(seconds)} on the simulator", markup=False)
    opened.verify_files()
    with progress_bar() as bar:
        named = None if against is None else Hub(offline=offline or None).resolve(against, progress=bar)
        toolchain = open_toolchain(report=bar.note)
    with source_of(opened, named) as checkpoint:
        open_nets = SimulatedRuntime if len(opened.parts) == 1 else open_simulators
        runtime = open_nets(opened, toolchain.simulator_folder)
        try:
            with STDERR.status("starting") as status:

                def show(line: str) -> None:
                    status.update(line)
                    if not STDERR.is_terminal:
                        STDERR.print(line, markup=False, soft_wrap=True)

                result = compare(opened, checkpoint, runtime, shapes, tokens=tokens, report=show)
        finally:
            runtime.close()
    print_result(result.to_dict(), lines(result), as_json=json)
    if not result.passed:
        raise typer.Exit(1)


def _short(error: float) -> str:
    """In eight characters, however large."""
    return f"{error:.4f}" if error < 1000 else f"{error:.1e}"


def lines(result: "VerifyReport") -> Iterator[str]:
    """Yield what people are told: a row for each net, then the verdict."""
    quantised = any(stage.to_grid for stage in result.stages)
    states = any(stage.committed is not None for stage in result.stages)
    columns = f"{'logits':>13}{'K/V':>9}" + (f"{'states':>9}" if states else "")
    place = f"{'net':>9}{'cached':>7}" + (f"{'committed':>11}" if states else "")
    wide = f"{'to its grid':>{len(columns)}}" if quantised else ""
    yield f"{'':{len(place)}}{wide}{'to float32':>{len(columns)}}"
    yield f"{place}{columns * (2 if quantised else 1)}   error  token"
    for stage in result.stages:
        deciding = stage.to_grid or stage.to_float
        cosines = "".join(
            f"{s.logits_cosine:13.6f}{s.cache_cosine:9.6f}"
            + ("" if s.state_cosine is None else f"{s.state_cosine:9.6f}")
            for s in (stage.to_grid, stage.to_float)
            if s
        )
        committed = "" if stage.committed is None else f"{stage.committed:11}"
        yield (
            f"{stage.tokens:>4}x{stage.history:<4}{stage.cached:7}{committed}{cosines}"
            f"{_short(deciding.logits_error):>8}  "
            f"{'same' if deciding.same_token else 'differs'}{'' if stage.passed else '  FAILED'}"
        )
    if result.overflows:
        yield (
            f"activations reach {result.largest_activation:,.0f}, and F16 holds 65,504: compile the model again with "
            "--bf16"
        )
    against = "the float result of the same grid" if quantised else "float32"
    yield (
        f"{result.model}, {result.precision}: {'passed' if result.passed else 'FAILED'}; "
        f"{result.nets_run} of {counted(result.nets, 'net')}, cosine to {against} at least {result.threshold}"
    )
