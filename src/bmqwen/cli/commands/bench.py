"""`bmqwen bench`."""

from typing import Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import STDERR, print_result


@options.grouped(loading=options.Loading)
def bench(
    model: options.Model = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            metavar="TEXT",
            help="Question to ask; default: the one in the published tables.",
        ),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option("--max-tokens", min=2, help="Maximum number of tokens in an answer.")
    ] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs; the median is reported.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the measured ones.")] = 1,
    engine: options.Engine = "auto",
    *,
    loading: options.Loading,
    json: options.Json = False,
) -> None:
    """Measure first-token latency and tokens/s; print a row of the published table in Markdown."""
    from bmqwen.evaluation.bench import PUBLISHED_PROMPT
    from bmqwen.evaluation.bench import bench as measure

    with loading.load(model, engine) as loaded, STDERR.status("measuring") as status:
        result = measure(
            loaded,
            prompt=prompt or PUBLISHED_PROMPT,
            new_tokens=new_tokens,
            repeats=repeats,
            warmup=warmup,
            step=lambda done, total: status.update(f"run {done + 1} of {total}"),
        )
    print_result(result.to_dict(), [result.markdown()], as_json=json)
