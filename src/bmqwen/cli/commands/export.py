"""`bmqwen export`."""

from typing import Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_result, progress_bar
from bmqwen.util.text import size_text


@options.grouped(precision=options.precision)
def export(
    output: options.Output,
    model: options.Model = None,
    *,
    precision: "options.PrecisionOptions",
    plain: Annotated[
        bool, typer.Option("--plain", help="Use standard ONNX operations only (opset 21), for other tools.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is already there.")] = False,
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Export MODEL to ONNX: a folder with graph, weights and tokenizer, for `bmqwen chat` and other tools."""
    from bmqwen.quant.precision import Precision
    from bmqwen.resolve import export_model

    with progress_bar() as bar:
        bundle = export_model(
            model,
            output,
            precision,
            plain=plain,
            replace=force,
            adapter=adapter,
            offline=offline,
            progress=bar,
        )
    facts = {
        "path": str(output),
        "bytes": bundle.total_bytes,
        "precision": bundle.precision,
        "details": bundle.details,
    }
    precise = Precision(**bundle.precision)
    rounding = f" (rounding: {bundle.details.get('rounding', 'unknown')})" if precise.quantised else ""
    text = f"{output}: {bundle.model}, {precise}{rounding}, {size_text(bundle.total_bytes)}"
    print_result(facts, [text], as_json=json)
