"""`bmqwen estimate`."""

from pathlib import Path
from typing import Annotated

import typer

from bmqwen.chip.spec import DEFAULT_CHIP, DEFAULT_HOST, Host, HostName
from bmqwen.cli import options
from bmqwen.cli.terminal import print_json, progress_bar


@options.grouped(precision=options.chip_precision)
def estimate(
    model: options.Model = None,
    *,
    precision: "options.PrecisionOptions",
    seq_len: options.SeqLen = None,
    sequences: options.Sequences = None,
    drafts: options.Drafts = True,
    parts: options.Parts = "1",
    bf16: options.Bf16 = False,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of the prompt.")] = 26,
    new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of the answer; default: 350, or as many as fit.")
    ] = None,
    history: Annotated[int, typer.Option(metavar="N", help="Tokens already cached before the prompt.")] = 0,
    every: Annotated[
        bool, typer.Option("--all", help="Show all published figures next to the predicted ones.")
    ] = False,
    host: Annotated[
        HostName | None,
        typer.Option(
            help="Machine that the chip is in; default: a SoC box, for a model on several chips the host of a card."
        ),
    ] = None,
    host_op_ms: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Milliseconds that a call of the device library takes; default: that of --host.",
        ),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot shares, cost by history and timelines to FILE.svg, FILE.png or FILE.pdf.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the nets' timelines as Chrome trace events, for chrome://tracing or Perfetto.",
        ),
    ] = None,
    jobs: options.Jobs = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Predict MODEL's first-token latency and tokens/s on the chip, and show where the time goes.

    This needs neither a chip nor weights: nets with random weights are compiled once. A bundle needs no compiler.
    If interrupted, run the same command again: nets that are finished are kept.
    """
    from bmqwen.artifact.bundle import is_bundle, read_bundle
    from bmqwen.cli.commands.estimate_view import lines, show, table_lines
    from bmqwen.compiler.plan import make_plan
    from bmqwen.errors import InputError
    from bmqwen.estimate.chart import check_chart, write_chart
    from bmqwen.estimate.estimate import estimate_bundle, estimate_model, estimate_published
    from bmqwen.estimate.forecast import Question, custom_host
    from bmqwen.estimate.trace import write_trace
    from bmqwen.hub.known_config import known_config

    question, count = Question(prompt_tokens, new_tokens, history), options.part_count(parts)
    path = Path(model).expanduser() if model else None
    bundle = read_bundle(path) if path is not None and is_bundle(path) else None

    def machine(chips: int) -> Host:
        # Only cards have several chips.
        found = DEFAULT_CHIP.hosts[host or ("pcie" if chips > 1 else DEFAULT_HOST)]
        return found if host_op_ms is None else custom_host(found, host_op_ms)

    if every and model is not None:
        raise InputError(f"--all is about the published models: leave {model} out")
    if count != 1 and (every or bundle is not None):
        whose = (
            "the published models run on one chip"
            if every
            else "a bundle has the parts that it was compiled in"
        )
        raise InputError(f"--parts is for a model that is not compiled yet: {whose}, leave the option out")
    for option, file in (("--chart", chart), ("--trace", trace)):
        if file is not None:
            if every:
                raise InputError(f"{option} shows the nets of one model: name it in place of --all")
            if bundle is not None:
                raise InputError(
                    f"a bundle does not hold its nets' timelines: for {option} name its model ({bundle.model})"
                )
            if not file.absolute().parent.is_dir():
                raise InputError(f"{file} cannot be written: there is no folder {file.absolute().parent}")
    if chart is not None:
        check_chart(chart)
    with progress_bar(sizes=False) as bar:
        if every:
            box = machine(1)
            rows = estimate_published(
                box, question, sequences=sequences, drafts=drafts, jobs=jobs, progress=bar
            )
            bar.close()
            print_json([row.to_dict() for _, row in rows]) if json else show(table_lines(rows, box))
            return
        if bundle is not None:
            found = estimate_bundle(bundle, machine(len(bundle.details.get("parts", ()))), question)
        else:
            name, config = known_config(model, offline=offline, progress=bar)
            precise = precision.at(path) if path is not None else precision.of_checkpoint(None)
            plan = make_plan(
                (name, config), precise, 512 if seq_len is None else seq_len, "bf16" if bf16 else "f16",
                sequences=sequences, drafts=drafts, parts=count,
            )  # fmt: skip
            found = estimate_model(name, plan, machine(len(plan.parts)), question, jobs=jobs, progress=bar)
    if chart is not None:
        write_chart(found, chart)
    if trace is not None:
        write_trace(found, trace)
    print_json(found.to_dict()) if json else show(lines(found))
