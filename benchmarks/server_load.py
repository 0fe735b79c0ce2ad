"""Many clients of one server, some of whom leave: is every answer right, does memory stay, is the engine free at once?

    python benchmarks/server_load.py --seconds 180 --markdown table.md --json results.json

What is measured, and how, is in benchmarks/README.md.
"""

import argparse
import asyncio
import shlex
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.cli.terminal import STDERR, use_utf8
from bmqwen.engine import Engine, load
from bmqwen.errors import InputError
from bmqwen.serve.pool.sequences import DEFAULT_SEQUENCES
from bmqwen.util.storage import write_file
from bmqwen.util.text import size_text
from fresh_runs import FreshRuns
from machine import Machine
from report import Report, run_benchmark
from served_model import ServedModel
from server_probes import STORY, overhead, seconds_to_free, turns
from traffic import Exchange, Traffic, failures

TEXTS = Path(__file__).with_name("texts")
WARM_UP = 1 / 3
SAMPLE_S = 0.5
TRIALS = 7
# Two processes of the same engine differ by some percent from start to start, so speed is compared over several.
ROUNDS = 4
SEED = 6
# What the project promises.
MOST_GROWTH, MOST_CANCEL_S, LEAST_SPEED_UP, MOST_OVERHEAD = 0.05, 0.2, 5.0, 0.03


@dataclass(frozen=True, slots=True)
class Check:
    """What was asked for, what was seen, and whether that is enough."""

    name: str
    wanted: str
    seen: str
    good: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at a moment: seconds since the start, bytes of the server and of its engines."""

    seconds: float
    server: int
    engines: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 (a check failed), 2 (wrong usage or input) or 130 (interrupted)."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    command = "python benchmarks/server_load.py " + shlex.join(given)

    def measure() -> Report:
        report = run(options, command)
        return Report(report["markdown"], report, good=all(check["good"] for check in report["checks"]))

    return run_benchmark("server_load", measure, markdown=options.markdown, document=options.json)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything, as one report. Raises BmqwenError."""
    if options.clients < 1 or options.seconds < 1:
        raise InputError("--clients and --seconds must be at least 1")
    machine = Machine.here()
    text = "\n".join(
        (TEXTS / f"{name}.txt").read_text(encoding="utf-8") for name in ("english", "chinese", "code")
    )
    served = ["--cache-mb", str(options.cache_mb), "--quiet"]
    if options.threads:
        served += ["--threads", str(options.threads)]
    # Else two likely words can change places with the number of answers that are computed together.
    with ServedModel(options.model, [*served, "--reproducible"]) as server:
        _say(f"{options.clients} clients for {options.seconds:g} seconds")
        traffic = Traffic(server.url, text, clients=options.clients, seed=SEED)
        with sampled(server.resident_bytes) as samples:
            asyncio.run(traffic.run(options.seconds))
        checks = [afterwards(server), memory_check(samples)]
        _say("a server at rest: leaving, second turns, speed")
        with load(options.model, threads=options.threads, reproducible=True) as engine:
            checks += probes(server, engine, text)
            restarts = server.metric("bmqwen_engine_restarts_total")
            log = server.log
            code = server.stop()
            if options.log:
                write_file(options.log, log.encode())
            checks.append(
                Check(
                    "the server's own faults",
                    "none",
                    f"{restarts:g} restarts, {log.count('Traceback')} tracebacks, exit code {code}",
                    not restarts and "Traceback" not in log and code == 0,
                )
            )
            _say(f"{len(traffic.exchanges)} requests to compare with runs of their own")
            checks = answer_checks(traffic.exchanges, FreshRuns(engine)) + checks
    _say(f"tokens/s of the server and of a bare engine, {options.starts} starts of both")
    checks.append(overhead_check(options, served))
    lines = [f"`{command}`", "", f"{options.clients} clients, {options.seconds:g} s; {machine.text()}", ""]
    lines += ["| | wanted | seen | |", "|---|---|---|---|"]
    lines += [f"| {c.name} | {c.wanted} | {c.seen} | {'yes' if c.good else 'NO'} |" for c in checks]
    return {
        "command": command,
        "machine": machine.to_dict(),
        "checks": [asdict(check) for check in checks],
        "samples": [asdict(sample) for sample in samples],
        "exchanges": [asdict(exchange) for exchange in traffic.exchanges],
        "markdown": "\n".join(lines),
    }


def answer_checks(exchanges: Sequence[Exchange], runs: FreshRuns) -> list[Check]:
    """Whether all clients that stayed got an answer, and the right one."""
    failed = failures(exchanges)
    for exchange in failed[:5]:
        _say(f"status {exchange.status}: {exchange.error}")
    found = runs.compare(exchanges)
    for exchange in found.wrong[:5]:
        own = runs.answer(exchange.messages, exchange.max_tokens)
        _say(f"wrong: {exchange.answer!r} to {exchange.messages!r}, on its own {own.text!r}")
    statuses = Counter(exchange.status for exchange in failed)
    left = sum(exchange.left for exchange in exchanges)
    return [
        Check(
            "requests without an answer",
            "none",
            f"{len(failed)} of {len(exchanges)} {dict(statuses) or ''} ({left} clients left)".replace(
                "  ", " "
            ),
            not failed and found.compared > 0,
        ),
        Check(
            "answers that differ from a run of their own",
            "none",
            f"{len(found.wrong)} of {found.compared} ({found.ties} ties of equally likely tokens)",
            not found.wrong and found.compared > 0,
        ),
    ]


def afterwards(server: ServedModel) -> Check:
    """Whether nothing is left of clients that are gone."""
    end = time.monotonic() + 10
    while (left := server.metric("bmqwen_running") + server.metric("bmqwen_queue_length")) and (
        time.monotonic() < end
    ):
        time.sleep(0.02)
    return Check("requests left when all clients are gone", "none", f"{left:g}", not left)


def memory_check(samples: Sequence[Sample]) -> Check:
    """Whether memory stays what it was after the warm-up."""
    growth, least, most = memory_growth(samples)
    seen = f"{growth:+.1%}; {size_text(least, 'MB')} to {size_text(most, 'MB')}, server and engine"
    return Check(
        "growth of memory after the warm-up", f"within {MOST_GROWTH:.0%}", seen, growth <= MOST_GROWTH
    )


def memory_growth(samples: Sequence[Sample]) -> tuple[float, int, int]:
    """From the sixth after the warm-up to the last sixth, by medians; least and most after the warm-up, bytes."""
    last = samples[-1].seconds
    after = [sample for sample in samples if sample.seconds >= last * WARM_UP]
    first_part = [s.server + s.engines for s in after if s.seconds < last * (WARM_UP + 1 / 6)]
    last_part = [s.server + s.engines for s in after if s.seconds >= last * 5 / 6]
    totals = [s.server + s.engines for s in after]
    before = statistics.median(first_part or totals[:1])
    return statistics.median(last_part) / before - 1, min(totals), max(totals)


def overhead_check(options: argparse.Namespace, served: Sequence[str]) -> Check:
    """What the server costs: the median loss of several starts of a server and of a bare engine."""
    speeds = []
    # A server remembers earlier answers, of which drafts come; the bare engine is reset. For one sequence another graph
    # is loaded.
    served = [*served, "--draft", "off", "--sequences", str(DEFAULT_SEQUENCES)]
    for _ in range(options.starts):
        with (
            ServedModel(options.model, served) as server,
            load(options.model, threads=options.threads, draft="off", sequences=DEFAULT_SEQUENCES) as engine,
        ):
            speeds.append(overhead(server, engine, ROUNDS, options.new_tokens))
    losses = sorted(1 - loud / bare for bare, loud in speeds)
    loss = statistics.median(losses)
    bare, loud = (statistics.median(column) for column in zip(*speeds, strict=True))
    return Check(
        "tokens/s lost to the server",
        f"below {MOST_OVERHEAD:.0%}",
        f"{loss:.1%} ({losses[0]:.1%} to {losses[-1]:.1%}; {bare:.1f} bare, {loud:.1f} served)",
        loss < MOST_OVERHEAD,
    )


def probes(server: ServedModel, engine: Engine, text: str) -> list[Check]:
    """How soon the engine is free, and how much sooner a second turn begins."""
    long_text = text * 3
    answering = max(
        seconds_to_free(server, f"{STORY} Title: {n}.", pieces=2, stay_s=0.03 * n) for n in range(TRIALS)
    )
    reading = max(
        seconds_to_free(server, f"{n}. {long_text}", pieces=1, stay_s=0.1 * n + 0.05) for n in range(TRIALS)
    )
    talks = [turns(server, f"{n}. {passage(engine, text, 400)}") for n in range(TRIALS)]
    first, second = (statistics.median(column) for column in zip(*talks, strict=True))
    limit = f"at most {MOST_CANCEL_S * 1e3:.0f} ms"
    return [
        Check(
            "engine free after its client left, answering", limit, _ms(answering), answering <= MOST_CANCEL_S
        ),
        Check("engine free after its client left, reading", limit, _ms(reading), reading <= MOST_CANCEL_S),
        Check(
            "first token of a second turn, after 400 tokens",
            f"{LEAST_SPEED_UP:g} times as fast as of the first",
            f"{first / second:.1f} times ({_ms(first)}, {_ms(second)})",
            first / second >= LEAST_SPEED_UP,
        ),
    ]


def passage(engine: Engine, text: str, tokens: int) -> str:
    """The beginning of a text, of about so many tokens."""
    return engine.tokenizer.decode(engine.tokenizer.encode(text)[:tokens])


@contextmanager
def sampled(measure: Callable[[], tuple[int, int]]) -> Iterator[list[Sample]]:
    """Memory, measured again and again while the block runs."""
    samples: list[Sample] = []
    over = threading.Event()
    begin = time.monotonic()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(Sample(time.monotonic() - begin, *measure()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _say(text: str) -> None:
    STDERR.print(text, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/server_load.py", description="Many clients of one server, some of whom leave."
    )
    parser.add_argument("--model", help="what bmqwen serve takes (default: the demo model)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: 64)")
    parser.add_argument("--seconds", type=float, default=180.0, help="of traffic (default: 180)")
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=128,
        help="of kept conversations, which must be full early (default: 128)",
    )
    parser.add_argument("--starts", type=int, default=6, help="of the server and a bare engine (default: 6)")
    parser.add_argument("--threads", type=int, help="of each engine (default: all cores)")
    parser.add_argument("--new-tokens", type=int, default=256, help="of timed answers (default: 256)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write what the server printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table, which is printed as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
