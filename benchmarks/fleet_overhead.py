"""What Ray adds to a server, at one client: milliseconds to the first token, tokens a second, processor time.

    python benchmarks/fleet_overhead.py --rounds 16 --json overhead.json

with the extra `cluster`. The embedded server and a fleet of one replica, on a Ray cluster of this machine alone, have
the same model and the same threads. Each round asks both the same new question, the one that is asked first in
turn; what is compared are the rounds' differences and quotients. While one answers the other one is idle on the same
cores, so that what Ray always does slows both.
"""

import argparse
import json
import operator
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bmqwen.cli.terminal import use_utf8
from bmqwen.errors import InputError
from bmqwen.runtime.child_process import descendants
from machine import Machine
from report import Report, run_benchmark
from served_model import ServedModel
from server_probes import STORY, Timing, timed
from side_by_side import processor_seconds, processor_times


class ServedFleet(ServedModel):
    """The same of `bmqwen cluster serve --local`."""

    def __init__(self, file: Path, model: dict[str, Any]) -> None:
        """`file` is written: its configuration."""
        super().__init__(None)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        file.write_text(json.dumps({"models": [model], "port": port, "front": {"cpus": 0}}))
        self._command = [sys.executable, "-m", "bmqwen", "cluster", "serve", str(file), "--local"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 (failed), 2 (wrong usage or input) or 130 (interrupted)."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="as for `bmqwen serve`; default: the demo model")
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--seconds", type=float, default=240, help="after which no new round begins")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    return run_benchmark("fleet_overhead", lambda: measure(options), document=options.json)


def measure(options: argparse.Namespace) -> Report:
    """Ask both. Raises InputError for fewer than two rounds, and RuntimeError for an answer that ends too soon."""
    if options.rounds < 2:
        raise InputError("--rounds must be at least 2: quartiles need as many")
    model = {
        "model": options.model,
        "quant": options.quant,
        "threads": options.threads,
        "sequences": 1,
        "draft": "off",
    }
    flags = [f"--{name}={model[name]}" for name in ("quant", "threads", "sequences", "draft")]
    pairs: list[tuple[Timing, Timing]] = []
    work: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ServedModel(options.model or None, flags) as embedded,
        ServedFleet(Path(folder, "fleet.json"), model) as fleet,
    ):
        end = time.monotonic() + options.seconds
        for number in range(-2, options.rounds):  # the first two rounds warm up
            if len(pairs) > 1 and time.monotonic() > end:
                break
            ask = [{"role": "user", "content": f"Story {number}. {STORY}"}]
            order = (fleet, embedded) if number % 2 else (embedded, fleet)
            times, spent = {}, {}
            for server in order:
                processes = [server.process.pid, *descendants(server.process.pid)]
                before = processor_times(processes)
                times[server] = timed(server, ask, options.tokens)
                spent[server] = processor_seconds(before) * 1000 / options.tokens
                if (tokens := times[server].tokens) < options.tokens:
                    raise RuntimeError(f"the answer ended after {tokens} tokens: choose fewer with --tokens")
            if number >= 0:
                pairs.append((times[fleet], times[embedded]))
                work.append((spent[fleet], spent[embedded]))
    rows = [
        _row("first token, ms", [(a.first_s * 1000, b.first_s * 1000) for a, b in pairs], operator.sub),
        _row("tokens/s", [(a.tokens_per_s, b.tokens_per_s) for a, b in pairs], operator.truediv),
        _row("processor time of all processes, ms a token", work, operator.sub),
    ]
    table = [
        "| | fleet | embedded | difference (of tokens/s: quotient), median (quartiles) |",
        "|---|---|---|---|",
    ]
    table += [
        f"| {row['name']} | {row['fleet']:.2f} | {row['embedded']:.2f} | {row['compared']:.3f} "
        f"({row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}) |"
        for row in rows
    ]
    same = sum(ours.text == other.text for ours, other in pairs)
    table += ["", f"{same} of {len(pairs)} answers are the same texts."]
    return Report("\n".join(table), {"machine": Machine.here().to_dict(), "rows": rows, "same": same})


def _row(
    name: str, pairs: Sequence[tuple[float, float]], compare: Callable[[float, float], float]
) -> dict[str, Any]:
    low, middle, high = statistics.quantiles([compare(*pair) for pair in pairs], n=4)
    fleet, embedded = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "name": name,
        "fleet": fleet,
        "embedded": embedded,
        "compared": middle,
        "quartiles": [low, high],
    }


if __name__ == "__main__":
    sys.exit(main())
