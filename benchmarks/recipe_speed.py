"""How fast the CPU engine answers with each recipe, beside llama.cpp with its files, all in turn.

`python benchmarks/recipe_speed.py int4=demo calibrated=FOLDER Q4_0=FILE.gguf` takes names of models, checkpoints and
bundles for bmqwen, and GGUF files for llama.cpp (`xllamacpp`), each after the label of its row. A ratio is the first
row's speed over the row's own, taken within a round. Nothing is drafted: each recipe writes another text.
"""

import argparse
import sys
from pathlib import Path

from bmqwen.cli.terminal import STDERR
from bmqwen.errors import InputError
from bmqwen.hub.hub import Hub
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.util.progress import Silent
from comparison import METRICS, Comparison
from cpu_peers import PROMPT_TOKENS, TEXTS, prompts_of
from report import run_benchmark
from rounds import Entry, run_rounds

SPEED = next(metric for metric in METRICS if metric.key == "short_tokens_per_s")


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="+", metavar="LABEL=MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args()

    def measure() -> None:
        entries = [entry_of(text) for text in options.recipe]
        texts = {name: (TEXTS / f"{name}.txt").read_text(encoding="utf-8") for name in ("english", "code")}
        bundle = resolve_bundle(str(Hub().resolve(None)), Precision(), progress=Silent())
        results = run_rounds(
            entries,
            rounds=options.rounds,
            threads=options.threads,
            new_tokens=options.new_tokens,
            prompts={"short": prompts_of(texts, bundle)["short"]},
            step=lambda text: STDERR.print(text, markup=False),
        )
        print(
            f"decoding after {PROMPT_TOKENS['short']} tokens, {options.threads} threads, {options.rounds} rounds\n"
        )
        print(table([entry.label for entry in entries], results))

    return run_benchmark("recipe_speed", measure)


def entry_of(text: str) -> Entry:
    """What one argument names. Raises InputError."""
    label, separator, model = text.partition("=")
    if not (label and separator and model):
        raise InputError(f"{text[:80]!r} is no LABEL=MODEL")
    return Entry(label, "xllamacpp" if model.endswith(".gguf") else "bmqwen-undrafted", Path(model), 0)


def table(labels: list[str], results: list[list[dict[str, float]]]) -> str:
    """A row for each recipe: tokens/s, and the first's over them; medians (least to greatest)."""
    compared = Comparison(labels, results)
    lines = ["| | tokens/s | the first / this |", "|---|---|---|"]
    for place, label in enumerate(labels):
        ratio = compared.ratio(SPEED, place).text(2)
        lines.append(f"| {label} | {compared.spread(SPEED, place).text(SPEED.digits)} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
