"""Chat completions of two versions of the server, in turn: seconds to the first token, tokens a second.

    git worktree add /tmp/before COMMIT
    python benchmarks/server_versions.py /tmp/before --now-option=--draft=off --json versions.json

Both servers have the demo model and the same threads. Each round asks both the same new question, the one
that is asked first in turn; what is compared are the rounds' quotients.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bmqwen.cli.terminal import use_utf8
from bmqwen.errors import InputError
from machine import Machine
from report import Report, run_benchmark
from served_model import ServedModel
from server_probes import STORY, Timing, timed

COLUMNS = ("first token, s", "tokens/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 (failed), 2 (wrong usage or input) or 130 (interrupted)."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, help="checkout of the other version")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--option", action="append", default=[], help="of `bmqwen serve`, for both")
    parser.add_argument(
        "--now-option", action="append", default=[], help="of this version's only, as --draft=off"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    return run_benchmark("server_versions", lambda: measure(options), document=options.json)


def measure(options: argparse.Namespace) -> Report:
    """Ask both. Raises InputError for a folder that is no checkout."""
    now, before = Path(__file__).parents[1] / "src", options.before.absolute() / "src"
    if not (before / "bmqwen").is_dir():
        raise InputError(f"{options.before} is not a checkout of bmqwen: there is no src/bmqwen in it")
    both = options.option
    pairs: list[tuple[Timing, Timing]] = []
    with (
        ServedModel(None, [*both, *options.now_option], {"PYTHONPATH": str(now)}) as new,
        ServedModel(None, both, {"PYTHONPATH": str(before)}) as old,
    ):
        for number in range(-1, options.rounds):  # the first round warms up
            ask = [{"role": "user", "content": f"Story {number}. {STORY}"}]
            order = (new, old) if number % 2 else (old, new)
            times = {server: timed(server, ask, options.tokens) for server in order}
            if number >= 0:
                pairs.append((times[new], times[old]))
    rows = [_row(name, [(_figure(a, name), _figure(b, name)) for a, b in pairs]) for name in COLUMNS]
    table = ["| | now | before | now / before, median (quartiles) |", "|---|---|---|---|"]
    table += [
        f"| {row['name']} | {row['now']:.3f} | {row['before']:.3f} | {row['ratio']:.3f} "
        f"({row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}) |"
        for row in rows
    ]
    return Report("\n".join(table), {"machine": Machine.here().to_dict(), "rows": rows})


def _figure(timing: Timing, name: str) -> float:
    return timing.first_s if name == COLUMNS[0] else timing.tokens_per_s


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ratios = [now / before for now, before in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    now, before = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": name, "now": now, "before": before, "ratio": middle, "quartiles": [low, high]}


if __name__ == "__main__":
    sys.exit(main())
