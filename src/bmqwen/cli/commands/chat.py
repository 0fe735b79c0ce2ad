"""`bmqwen chat`: one answer, or a conversation."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from bmqwen.cli import options


@options.grouped(sampling=options.sampling_options(), loading=options.Loading)
def chat(
    model: options.Model = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p", "--prompt", metavar="TEXT", help="Ask this question and exit; `-` reads it from stdin."
        ),
    ] = None,
    engine: options.Engine = "auto",
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")] = None,
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    load_file: Annotated[
        Path | None, typer.Option("--load", metavar="FILE", help="Continue a conversation saved with /save.")
    ] = None,
    overflow: Annotated[
        Literal["drop", "refuse"],
        typer.Option(help="When the context is full: leave out the oldest turns, or refuse the question."),
    ] = "drop",
    json: options.Json = False,
) -> None:
    """Chat with MODEL: one answer with -p or piped text, otherwise a conversation (/help lists its commands)."""
    from bmqwen.cli.repl.commands import is_script
    from bmqwen.cli.terminal import argument_text, keep_typeahead, read_stdin
    from bmqwen.errors import InputError
    from bmqwen.generate.params import SamplingParams, choose_params

    choose_params(SamplingParams(), sampling)  # a wrong value is refused before anything is loaded
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
    with keep_typeahead() if prompt is None else nullcontext(), loading.load(model, engine) as loaded:
        from bmqwen.cli.repl.answer import answer_once
        from bmqwen.cli.repl.repl import Repl

        conversation = loaded.chat(system=system, params=choose_params(loaded.params, sampling))
        conversation.drops = overflow == "drop"
        if load_file is not None:
            conversation.load(load_file)
            conversation.set_system(conversation.system if system is None else system)
        if prompt is None:
            Repl(loaded, conversation).run(script)
        else:
            answer_once(
                conversation, prompt.strip("\n"), json=json, name=loaded.runtime.name, model=loaded.model
            )
