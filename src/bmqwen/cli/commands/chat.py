"""`bmqwen chat`: one answer, or a conversation."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.device_ids import one_device
from bmqwen.cli.loading import load_shown


def chat(
    model: options.Model = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            metavar="TEXT",
            help="Ask this and leave; `-` reads the question from stdin.",
            show_default=False,
        ),
    ] = None,
    engine: options.Engine = "auto",
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message.", show_default=False)
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the most likely token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Keep the most likely tokens of this total probability.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Keep that many tokens; default: 0, all.", show_default=False)
    ] = 0,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Keep tokens at least this likely, relative to the best.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Default: 1, none.", show_default=False)
    ] = 1.0,
    presence_penalty: Annotated[
        float, typer.Option("--presence-penalty", help="Default: 0, none.", show_default=False)
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option("--frequency-penalty", help="Default: 0, none.", show_default=False)
    ] = 0.0,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", min=1, help="Most tokens of an answer; small models may repeat without end."
        ),
    ] = 4096,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End the answer before this text; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Same seed, same answer.", show_default=False)
    ] = None,
    quant: options.Quant = "int4",
    group_size: options.GroupSize = 64,
    lm_head: options.LmHead = None,
    device: options.Device = "0",
    threads: options.Threads = None,
    context: options.Context = None,
    offline: options.Offline = False,
    load_file: Annotated[
        Path | None,
        typer.Option(
            "--load", metavar="FILE", help="Go on with a conversation saved by /save.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Talk to MODEL. With -p or piped text: one answer; else a conversation (type /help in it)."""
    from bmqwen.cli.repl.answer import answer_once
    from bmqwen.cli.repl.repl import Repl, is_script
    from bmqwen.cli.terminal import argument_text, held_keys, read_stdin
    from bmqwen.errors import InputError
    from bmqwen.generate.params import SamplingParams
    from bmqwen.quant.precision import Precision

    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(argument_text(text, "--stop") for text in stop or ()),
    )
    chip = one_device(device)
    system = system and argument_text(system, "--system")
    script = None
    if prompt is None and (sys.stdin is None or not sys.stdin.isatty()):
        prompt = read_stdin()
        if is_script(prompt):
            prompt, script = None, prompt
    elif prompt is not None:
        prompt = read_stdin() if prompt == "-" else argument_text(prompt, "the prompt")
    if prompt is not None and not prompt.strip():
        raise InputError("the prompt is empty: give a question with -p, or pipe one in")
    if json and prompt is None:
        raise InputError("--json needs one question: give it with -p, or pipe it in")
    with held_keys() if prompt is None else nullcontext():
        loaded = load_shown(
            model,
            engine,
            Precision.choose(quant, group_size, lm_head),
            device=chip,
            threads=threads,
            context=context,
            offline=offline,
        )
        with loaded:
            conversation = loaded.chat(system=system, params=params)
            if load_file is not None:
                conversation.load(load_file)
                conversation.set_system(conversation.system if system is None else system)
            if prompt is None:
                Repl(loaded, conversation).run(script)
            else:
                answer_once(
                    conversation, prompt.strip("\n"), json=json, name=loaded.runtime.name, model=loaded.model
                )
