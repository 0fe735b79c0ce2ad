"""`bmqwen compile`."""

from typing import Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_result, progress_bar
from bmqwen.util.text import counted, size_text


@options.grouped(precision=options.chip_precision)
def compile_(
    output: options.Output,
    model: options.Model = None,
    *,
    precision: "options.PrecisionOptions",
    seq_len: Annotated[int, typer.Option(help="Context length in tokens, a multiple of 8.")] = 512,
    sequences: options.Sequences = None,
    drafts: options.Drafts = True,
    parts: options.Parts = "1",
    bf16: options.Bf16 = False,
    layers: Annotated[
        int | None, typer.Option(metavar="N", help="Compile only the first N layers, for trials.")
    ] = None,
    jobs: options.Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is already there.")] = False,
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Compile MODEL into a bundle that `bmqwen chat` runs on the chip or its simulator.

    If interrupted, run the same command again: nets that are finished are kept.
    """
    from bmqwen.compiler.pipeline import compile_model
    from bmqwen.quant.precision import Precision
    from bmqwen.resolve import open_model

    count = options.part_count(parts)
    with (
        progress_bar(sizes=False) as bar,
        open_model(model, adapter=adapter, offline=offline, progress=bar) as checkpoint,
    ):
        bundle = compile_model(
            checkpoint,
            output,
            precision.of_checkpoint(checkpoint),
            seq_len=seq_len,
            half="bf16" if bf16 else "f16",
            layers=layers,
            sequences=sequences,
            drafts=drafts,
            parts=count,
            jobs=jobs,
            replace=force,
            progress=bar,
        )
    details = bundle.details
    facts = {
        "path": str(output),
        "model": bundle.model,
        "bytes": bundle.total_bytes,
        "layers": bundle.config.num_hidden_layers,
        "precision": bundle.precision,
        "details": details,
    }
    decode = max((s for s in details["stages"] if s["tokens"] == 1), key=lambda s: s["history"])
    several = f" for each of {details['sequences']} conversations" if details["sequences"] > 1 else ""
    precise = Precision(**bundle.precision)
    rounding = f" (rounding: {details.get('rounding', 'unknown')})" if precise.quantised else ""
    chips = [size_text(part.device_bytes) for part in bundle.parts]
    memory = f"chip {chips[0]}" if len(chips) == 1 else f"{len(chips)} chips {', '.join(chips)}"
    text = (
        f"{output}: {bundle.model}, {precise}{rounding}, {counted(bundle.config.num_hidden_layers, 'layer')}, "
        f"{details['context']} tokens{several}, {size_text(bundle.total_bytes)}; "
        f"on the {memory}, "
        f"about {decode['cycles'] / 1e6:.1f} ms a token at a full history"
    )
    print_result(facts, [text], as_json=json)
