"""`bmqwen quantize`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_result, progress_bar
from bmqwen.quant import Format


def quantize(
    output: options.Output,
    model: options.Model = None,
    quant: Annotated[
        Literal["int4", "int8"] | None, typer.Option(help="Weight format of the layers; default: int4.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Columns that share a scale: 32, 64, 128 or 256; default: 64.")
    ] = None,
    lm_head: Annotated[
        Format | None, typer.Option(help="Weight format of the output layer; default: as --quant.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="COST",
            help="Measure what each format of each kind of projection and of the output layer costs, and choose "
            "the best mixture within this cost of a token on the chip: 8.5ms (predicted) or 300MB (of weights read); "
            "in place of --quant, --group-size and --lm-head.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Calibration text: plain text, or JSON lines with "text" or "messages"; default: the text that '
            "ships, in English, Chinese and code.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=512, max=1 << 20, help="Use at most N tokens of the calibration text.")
    ] = 16384,
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Quantise MODEL by what it computes on calibration text, to a GPTQ checkpoint that all commands take.

    It loses less than the rounding that `chat`, `export` and `compile` do by themselves, and takes minutes to hours.
    If interrupted, run the same command again: layers that are finished are kept.
    """
    from bmqwen.calibration import quantize as calibrated
    from bmqwen.calibration import text
    from bmqwen.calibration.budget import Budget, spend
    from bmqwen.errors import InputError
    from bmqwen.quant.precision import Precision
    from bmqwen.resolve import open_model

    if budget is not None and (quant, group_size, lm_head) != (None, None, None):
        raise InputError("--budget chooses the formats: leave --quant, --group-size and --lm-head out")
    wanted = None if budget is None else Budget.parse(budget)
    # The shortest groups fit wherever any do.
    precision = Precision.choose(quant or "int4", group_size or (64 if budget is None else 32), lm_head)
    spent: dict[str, Any] = {}
    # Read before anything large is downloaded.
    documents = text.shipped_documents() if calibrate is None else text.read_documents(calibrate, tokens)
    with (
        progress_bar(sizes=False) as bar,
        open_model(model, adapter=adapter, offline=offline, progress=bar) as checkpoint,
    ):
        if wanted is None:
            calibrated.check(checkpoint, output, precision)
        else:
            calibrated.check(checkpoint, output, precision, "choose --group-size 16 in place of --budget")
        sequences = text.sequences_of(documents, *text.tokenizer_of(checkpoint), tokens)
        if wanted is not None:
            choice = spend(wanted, checkpoint, sequences, bar)
            precision, spent = choice.precision, choice.to_dict()
            for line in choice.lines():
                bar.note(line)
        for note in text.remarks(documents, sum(map(len, sequences)), checkpoint.config):
            bar.note(note)
        made = calibrated.quantize(
            checkpoint,
            output,
            precision,
            sequences,
            calibration="bmqwen's own text" if calibrate is None else calibrate.name,
            progress=bar,
        )
    lines = [
        f"{output}: {precision}, {calibrated.METHOD}, {made.tokens:,} calibration tokens",
        f"run it with `bmqwen chat {output}`; export and compile take it as well",
    ]
    if made.overflowing:
        lines.append(
            f"layers {', '.join(map(str, made.overflowing))} compute values that F16 cannot hold: compile with --bf16"
        )
    facts = made.to_dict() | {"precision": precision.to_dict()} | ({"budget": spent} if spent else {})
    print_result(facts, lines, as_json=json)
