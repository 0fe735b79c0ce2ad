"""`bmqwen doctor`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_json, progress_bar

if TYPE_CHECKING:
    from bmqwen.chip.problems import Finding

_MARKS = {"ok": "ok", "warning": "warning", "error": "ERROR"}


@options.grouped(precision=options.chip_precision)
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL_OR_BUNDLE]", help="Model to check against the chip's memory."),
    ] = None,
    device: Annotated[
        int | None, typer.Option("--device", min=0, help="Examine only this chip; default: all.")
    ] = None,
    *,
    precision: "options.Precision",
    seq_len: options.SeqLen = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Check drivers, chips, memory and versions; say what is wrong and how to fix it.

    The exit code is 1 if something that is needed does not work.
    """
    from bmqwen.chip.system import System
    from bmqwen.doctor.examination import examine, find_request

    request = None
    if model is not None:
        with progress_bar() as bar:
            request = find_request(model, precision, seq_len, offline=offline, progress=bar)
    result = examine(System(), device=device, request=request)
    if json:
        print_json(result.to_dict())
    else:
        for line in _lines(result.findings):
            typer.echo(line)
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
        parts = [
            f"{count} {noun}{'' if count == 1 else 's'}"
            for count, noun in ((errors, "error"), (warnings, "warning"))
            if count
        ]
        yield f"\n{' and '.join(parts)}"
    else:
        yield "\neverything is ready"
