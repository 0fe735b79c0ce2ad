"""`bmqwen doctor`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_result, progress_bar
from bmqwen.util.text import counted

if TYPE_CHECKING:
    from bmqwen.chip.problems import Finding

_MARKS = {"ok": "ok", "warning": "warning", "error": "ERROR"}


@options.grouped(precision=options.chip_precision)
def doctor(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL_OR_BUNDLE]...",
            help="Model to check against the chip's memory; several: whether they fit side by side.",
        ),
    ] = None,
    device: Annotated[int | None, typer.Option(min=0, help="Examine only this chip; default: all.")] = None,
    *,
    precision: "options.PrecisionOptions",
    seq_len: options.SeqLen = None,
    sequences: options.ChipSequences = 1,
    parts: options.Parts = "1",
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Check drivers, chips, memory and versions; say what is wrong and how to fix it.

    The exit code is 1 if something that is needed does not work.
    """
    from bmqwen.artifact.fit import together
    from bmqwen.chip.system import System
    from bmqwen.doctor.examination import examine, find_request

    request, count = None, options.part_count(parts)
    if models:
        with progress_bar() as bar:
            request = together(
                [
                    find_request(model, precision, seq_len, sequences, count, offline=offline, progress=bar)
                    for model in models
                ]
            )
    result = examine(System(), device=device, request=request)
    print_result(result.to_dict(), _lines(result.findings), as_json=json)
    if not result.healthy:
        raise typer.Exit(1)


def _lines(findings: "Sequence[Finding]") -> Iterator[str]:
    """Return a line for each finding under its area, with its fix below."""
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            yield area
        yield f"  {_MARKS[finding.level]:9}{finding.text}"
        if finding.fix:
            yield f"  {'':9}-> {finding.fix}"
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if errors or warnings:
        counts = ((errors, "error"), (warnings, "warning"))
        yield "\n" + " and ".join(counted(count, noun) for count, noun in counts if count)
    else:
        yield "\neverything is ready"
