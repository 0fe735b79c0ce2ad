"""`bmqwen info`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bmqwen.cli import options
from bmqwen.cli.output import print_json, progress_bar, size_text


def info(
    model: options.Model = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file of a bundle with its hash.")
    ] = False,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Describe a checkpoint or a bundle: sizes, precision, bytes, memory."""
    from bmqwen.bundle import is_bundle, read_bundle
    from bmqwen.checkpoint.checkpoint import open_checkpoint
    from bmqwen.checkpoint.hub import Hub
    from bmqwen.describe import describe_bundle, describe_checkpoint

    with progress_bar() as bar:
        path: Path = Hub(offline=offline or None).resolve(model, progress=bar)
    if is_bundle(path):
        bundle = read_bundle(path)
        if check:
            bundle.verify_files()
        facts = describe_bundle(bundle)
    else:
        with open_checkpoint(path) as checkpoint:
            facts = describe_checkpoint(checkpoint)
    if json:
        print_json(facts)
    else:
        for key, value in facts.items():
            typer.echo(f"{key.replace('_', ' '):28} {_text(key, value)}")


def _text(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
    if isinstance(value, int) and key.endswith("bytes"):
        return f"{value:,} ({size_text(value)})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
