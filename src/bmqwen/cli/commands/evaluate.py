"""`bmqwen evaluate`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from bmqwen.cli import options
from bmqwen.cli.terminal import STDERR, print_json, progress_bar
from bmqwen.util.text import duration_text

# A part that is done sooner was kept by an earlier run: it does not tell how long the others will take.
_KEPT_SECONDS = 0.3


@options.grouped(precision=options.precision)
def evaluate(
    model: options.Model = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help='UTF-8 text to score, or JSON lines with a document\'s "text" in each; repeatable; default without '
            "--choices: the texts that ship, in English, Chinese and code.",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPE",
            help="Evaluate this as well and compare: FORMAT[:GROUP_SIZE[:LM_HEAD]] of MODEL, as in int4:128:int8, or "
            "a checkpoint or bundle made from MODEL; repeatable.",
        ),
    ] = None,
    choices: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Questions in C-Eval's CSV layout (id,question,A,B,C,D,answer); repeatable."
        ),
    ] = None,
    dev: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Solved examples to show first: a file in the same layout, or a folder with "
            "SUBJECT_dev.csv.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Float model to compare with: another checkpoint, or the one a bundle was made from; "
            "default: MODEL itself.",
        ),
    ] = None,
    arithmetic: Annotated[
        Literal["float", "int8"],
        typer.Option(
            "--arithmetic",
            help="float: quantised weights only, as on the chip; int8: int8 activations too, as in the CPU "
            "engine.",
        ),
    ] = "float",
    alone: Annotated[
        bool, typer.Option("--alone", help="Skip the float model: half the memory and time.")
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the result into MODEL's manifest, for `bmqwen info`; MODEL must be a bundle.",
        ),
    ] = False,
    *,
    precision: "options.PrecisionOptions",
    window: Annotated[
        int | None, typer.Option("--context-window", min=2, help="Window length in tokens; default: 512.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens from one window to the next; default: half a window.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Score at most N tokens of each text.")] = None,
    threads: options.Threads = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Measure perplexity, closeness to the float model (KL, top-1 agreement) and multiple choice, on the CPU.

    The float32 conversion stays in the cache (2.5 GB for the demo model) until `bmqwen remove` deletes it.
    If interrupted, run the same command again: what is scored already is kept.
    """
    from bmqwen.artifact.bundle import is_bundle, read_bundle, record_details
    from bmqwen.errors import InputError
    from bmqwen.evaluation.comparison import comparison_table, recipes_of
    from bmqwen.evaluation.kept_scores import KeptScores
    from bmqwen.evaluation.model_pair import open_pair
    from bmqwen.evaluation.multiple_choice import (
        evaluate_choices,
        guessed_questions,
        read_examples,
        read_questions,
        subject_of,
    )
    from bmqwen.evaluation.text_score import (
        TextScore,
        check_limit,
        evaluate_text,
        guessed_reading,
        held_out_texts,
        read_documents,
    )

    check_limit(limit)
    bundle = None
    if record:
        if model is None or not is_bundle(Path(model)):
            raise InputError("--record needs a bundle's folder as MODEL: it is written into its manifest")
        bundle = read_bundle(Path(model))
    # Files are read before anything large is downloaded or converted.
    texts: dict[str, list[str]] = {str(path): read_documents(path) for path in text or ()}
    if not texts and not choices:
        texts = held_out_texts()
    papers = {
        path: (read_questions(path), read_examples(dev, path) if dev is not None else ())
        for path in choices or ()
    }
    tokens = guessed_reading(texts.values(), window, stride, limit)
    tokens += sum(guessed_questions(*paper) for paper in papers.values())
    results: list[dict[str, Any]] = []
    for one in recipes_of(model, precision, against, recipe or ()):
        result: dict[str, Any] = {"texts": [], "choices": []}
        with progress_bar() as bar:
            opening = open_pair(
                one.model,
                one.precision,
                against=one.against,
                arithmetic=arithmetic,
                alone=alone,
                threads=threads,
                offline=offline,
                tokens=tokens,
                progress=bar,
            )
            with opening as pair:
                bar.close()
                result = pair.to_dict() | result
                if not json:
                    typer.echo(("\n" if results else "") + str(pair))
                kept, scores = KeptScores(pair.reference_name, pair.identity), list[TextScore]()
                for name, documents in texts.items():
                    with _meter(Path(name).name, "tokens, perplexity {:.3f}") as step:
                        score = evaluate_text(
                            pair, documents, window=window, stride=stride, limit=limit, step=step, kept=kept
                        )
                    scores.append(score)
                    result["texts"].append({"file": name} | score.to_dict())
                    if not json:
                        typer.echo(f"\n{name}: {score}")
                if len(scores) > 1:
                    together = TextScore.together(scores)
                    result["together"] = together.to_dict()
                    if not json:
                        typer.echo(f"\nall texts: {together}")
                for path, (questions, examples) in papers.items():
                    with _meter(path.name, "questions, {:,} right") as step:
                        paper = evaluate_choices(
                            pair, questions, subject=subject_of(path), examples=examples, step=step
                        )
                    result["choices"].append({"file": str(path)} | paper.to_dict())
                    if not json:
                        typer.echo(f"\n{path}: {paper}")
        results.append(result)
    if bundle is not None:
        kept_values = ("float_model", "arithmetic", "texts", "choices")
        record_details(bundle, evaluation={name: results[0][name] for name in kept_values})
    if json:
        print_json(results[0] | ({"recipes": results[1:]} if recipe else {}))
    elif len(results) > 1 and texts and not alone:
        typer.echo(f"\n{comparison_table(results)}")


@contextmanager
def _meter(name: str, figures: str) -> Iterator[Callable[[int, int, Any], None]]:
    """Shows how far a file is and how long it will take: (done, all, what `figures` says of it so far)."""
    if not STDERR.is_terminal:
        STDERR.print(f"evaluating on {name} ...", markup=False, soft_wrap=True)
    began, before = time.monotonic(), 0
    with STDERR.status(f"{escape(name)}: starting") as status:
        told = False

        def show(done: int, total: int, figure: Any) -> None:
            nonlocal told, began, before
            now = time.monotonic()
            rest = ""
            if not told and now - began < _KEPT_SECONDS:
                began, before = now, done
            else:
                left = (now - began) * (total - done) / (done - before)
                rest = f", {duration_text(left)} left"
                if not told and done < total:
                    STDERR.print(f"{name}: about {duration_text(left)}", markup=False, soft_wrap=True)
                told = True
            status.update(f"{escape(name)}: {done:,} of {total:,} {figures.format(figure)}{rest}")

        yield show
