"""`bmqwen estimate`."""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from bmqwen.cli import options
from bmqwen.cli.output import print_json, progress_bar


def estimate(
    model: options.Model = None,
    quant: Annotated[
        Literal["f16", "int8", "int4"],
        typer.Option("--quant", help="Format of the weights; a bundle keeps its own."),
    ] = "int4",
    seq_len: Annotated[
        int, typer.Option("--seq-len", help="Most tokens of a conversation; a bundle keeps its own.")
    ] = 512,
    group_size: options.GroupSize = 64,
    lm_head: Annotated[
        Literal["f16", "int8", "int4"] | None,
        typer.Option("--lm-head", help="Format of the head; default: as --quant.", show_default=False),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in BF16 in place of F16.")] = False,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", metavar="N", help="Tokens to read.")] = 26,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "--new-tokens",
            metavar="N",
            help="Tokens of the answer; default: 350, or as many as fit.",
            show_default=False,
        ),
    ] = None,
    history: Annotated[
        int, typer.Option("--history", metavar="N", help="Tokens that are cached before the prompt.")
    ] = 0,
    recipe: Annotated[
        Literal["ours", "sophon-demo"],
        typer.Option("--recipe", help="Our nets, or those of the published programs."),
    ] = "ours",
    every: Annotated[
        bool, typer.Option("--all", help="With --recipe sophon-demo: all published figures beside the predicted.")
    ] = False,
    host: Annotated[
        Literal["se7", "pcie"], typer.Option("--host", help="The machine that the chip is in.")
    ] = "se7",
    host_op_ms: Annotated[
        float | None,
        typer.Option(
            "--host-op-ms",
            metavar="X",
            help="What a call of the device library takes there; default: the host's.",
            show_default=False,
        ),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart",
            metavar="FILE",
            help="Draw the nets' timelines: FILE.html or FILE.svg.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=256,
            help="Nets compiled at a time; default: what memory and processors allow.",
            show_default=False,
        ),
    ] = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Predict first-token latency and tokens/s of MODEL on a BM1684X, and show where the time goes.

    No chip and no weights are needed: nets with random weights are compiled, once. A bundle needs no compiler.
    """
    from bmqwen.bundle import is_bundle, read_bundle
    from bmqwen.checkpoint.known_config import known_config
    from bmqwen.cli.estimate_view import show
    from bmqwen.compiler.estimate.estimate import Question, estimate_bundle, estimate_model
    from bmqwen.compiler.estimate.host import HOSTS, Host
    from bmqwen.quant.precision import Precision

    # Being told to end must end the compilers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = HOSTS[host] if host_op_ms is None else Host(f"{host_op_ms:g} ms a call", host_op_ms)
    question = Question(prompt_tokens, new_tokens, history)
    path = Path(model).expanduser() if model else None
    if path is not None and is_bundle(path):
        result = estimate_bundle(read_bundle(path), machine, question)
    else:
        with progress_bar(sizes=False) as bar:
            name, config = known_config(model, offline=offline, progress=bar)
            result = estimate_model(
                name,
                config,
                Precision.choose(quant, group_size, lm_head or quant),
                seq_len,
                machine,
                question,
                half="bf16" if bf16 else "f16",
                jobs=jobs,
                progress=bar,
            )
    if json:
        print_json(result.to_dict())
    else:
        show(result)
