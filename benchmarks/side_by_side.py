"""Several clients at once: `bmqwen serve` beside llama.cpp's server with as many slots, in one run, in turns.

    python benchmarks/side_by_side.py --markdown table.md --json results.json

What is measured, and how, is in benchmarks/README.md.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from bmqwen.cli.terminal import STDERR, use_utf8
from bmqwen.errors import InputError
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.hub import Hub
from bmqwen.weights.checkpoint import open_checkpoint
from machine import Machine
from q4_0 import q4_0_file
from report import Report, run_benchmark
from served_model import ServedModel

TEXTS = Path(__file__).with_name("texts")
# Lengths of prompts in tokens, for the clients in turn.
LENGTHS = (20, 120, 60, 400, 30, 200, 80, 800)
LONG = 800
_REPEATS = 8
START_SECONDS = 120.0


@dataclass(slots=True)
class Answer:
    """When the pieces of an answer came, in seconds since its request."""

    times: list[float] = field(default_factory=list)
    tokens: int = 0


class LlamaServer:
    """llama.cpp's server, from the wheel `xllamacpp`, in a process of its own."""

    def __init__(self, file: Path, threads: int, slots: int) -> None:
        self._command = [sys.executable, __file__, "--peer", str(file), str(threads), str(slots)]
        self.url = ""

    def __enter__(self) -> "LlamaServer":
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            raise RuntimeError("llama.cpp's server did not start")
        return self

    @property
    def processes(self) -> list[int]:
        """Its process id."""
        return [self._process.pid]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def serve_peer(file: str, threads: int, slots: int) -> None:
    """Run llama.cpp's server until killed; its address is the first line of output."""
    import xllamacpp

    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    params.n_ctx = 2048 * slots
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    params.fit_params = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    address: Any = server.listening_address
    print(address() if callable(address) else address, file=output, flush=True)
    threading.Event().wait()


def processor_times(processes: Iterable[int]) -> dict[int, float]:
    """Seconds of the processor that each process has had: on a busy machine they tell more than the clock.

    Those of a process that has ended are left out.
    """
    found = {}
    for pid in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def processor_seconds(before: Mapping[int, float]) -> float:
    """Seconds of the processor that processes have had since they had had so many."""
    return sum(seconds - before[pid] for pid, seconds in processor_times(before).items())


def ask(url: str, prompt: str, new_tokens: int, stop_ids: Sequence[int]) -> Answer:
    """Stream an answer of exactly so many tokens. Raises RuntimeError if it has another length."""
    answer, start = Answer(), time.perf_counter()
    body = {
        "prompt": prompt,
        "max_tokens": new_tokens,
        "stream": True,
        "temperature": 0,
        "logit_bias": {str(token): -100 for token in stop_ids},
        "cache_prompt": False,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=600) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(f"{url}: {chunk}")
            if chunk.get("choices") and chunk["choices"][0].get("text"):
                answer.times.append(time.perf_counter() - start)
            if chunk.get("usage"):
                answer.tokens = chunk["usage"]["completion_tokens"]
    if answer.tokens != new_tokens or not answer.times:
        raise RuntimeError(f"{url} answered {answer.tokens} tokens in place of {new_tokens}")
    return answer


class Prompts:
    """Passages of the texts, each with a beginning of its own: nothing of one is in a cache for another."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = "\n".join((TEXTS / f"{name}.txt").read_text(encoding="utf-8") for name in ("english", "code"))
        # Again and again: they are shorter than the longest prompt.
        self._tokenizer, self._ids = tokenizer, tokenizer.encode(text) * _REPEATS
        self._count = 0

    def next(self, length: int) -> str:
        """One of about so many tokens."""
        self._count += 1
        if length >= len(self._ids):
            raise InputError(f"--lengths must be below {len(self._ids)}, not {length}")
        start = 131 * self._count % (len(self._ids) - length)
        return f"{self._count}. " + self._tokenizer.decode(self._ids[start : start + length - 3])


def together(
    url: str, prompts: Sequence[str], new_tokens: int, stop_ids: Sequence[int]
) -> tuple[float, list[Answer]]:
    """Seconds from the first request to the last answer's end, and the answers, of clients that begin together."""
    answers: list[Answer | None] = [None] * len(prompts)

    def run(index: int) -> None:
        answers[index] = ask(url, prompts[index], new_tokens, stop_ids)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(prompts))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    found = [answer for answer in answers if answer is not None]
    if len(found) < len(prompts):
        raise RuntimeError(f"{url} left {len(prompts) - len(found)} requests without an answer")
    return seconds, found


def disturbed(url: str, prompts: Prompts, stop_ids: Sequence[int]) -> dict[str, float]:
    """Longest and usual gap of a running answer while a long prompt is read, its gap before, and how long that takes.

    All in seconds.
    """
    found: dict[str, float] = {}
    writer: list[Answer] = []
    begin = time.perf_counter()
    thread = threading.Thread(
        target=lambda: writer.append(ask(url, prompts.next(20), 600, stop_ids)),
    )
    thread.start()
    time.sleep(0.5)
    asked = time.perf_counter() - begin
    reader = ask(url, prompts.next(LONG), 4, stop_ids)
    thread.join()
    (answer,) = writer
    later = [t for t in answer.times if t >= asked]
    # With the one that ends after the prompt was read.
    count = 1 + sum(t <= asked + reader.times[0] for t in later)
    gaps = [b - a for a, b in pairwise([asked, *later[:count]])] or [reader.times[0]]
    before = [b - a for a, b in pairwise(t for t in answer.times if t < asked)]
    found["gap"], found["usual"] = max(gaps), statistics.median(gaps)
    found["alone"] = statistics.median(before) if before else math.nan
    found["first"] = reader.times[0]
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one report. Raises BmqwenError."""
    if min(options.clients) < 1 or options.rounds < 1:
        raise InputError("--clients and --rounds must be at least 1")
    threads = options.threads or len(os.sched_getaffinity(0))
    with open_checkpoint(Hub().resolve(None)) as checkpoint:
        file = q4_0_file(checkpoint, lambda: _say("writing the Q4_0 file"))
    served = ["--sequences", str(options.slots), "--context", "2048", "--quiet", "--cache-mb", "0"]
    served += ["--threads", str(threads), *shlex.split(options.serve)]
    results: dict[str, dict[int, list[dict[str, Any]]]] = {}
    gaps: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(ServedModel(None, served))
        peer = stack.enter_context(LlamaServer(file, threads, options.slots))
        tokenizer = Tokenizer.from_folder(_bundle_folder())
        prompts, stop_ids = Prompts(tokenizer), sorted(tokenizer.stop_ids)
        processes = {"bmqwen": [ours.process.pid, *ours.engines], "llama.cpp": peer.processes}
        urls = {"bmqwen": ours.url, "llama.cpp": peer.url}
        for url in urls.values():
            ask(url, prompts.next(20), 8, stop_ids)
        for number in range(options.rounds):
            for clients in options.clients:
                lengths = options.lengths
                asked = [prompts.next(lengths[index % len(lengths)]) for index in range(clients)]
                for name in sorted(urls, reverse=bool(number % 2)):
                    before = processor_times(processes[name])
                    seconds, answers = together(urls[name], asked, options.new_tokens, stop_ids)
                    spent = processor_seconds(before)
                    first = [answer.times[0] for answer in answers]
                    results.setdefault(name, {}).setdefault(clients, []).append(
                        {
                            "tokens_per_s": clients * options.new_tokens / seconds,
                            "cpu_ms": 1e3 * spent / (clients * options.new_tokens),
                            "first": first,
                        }
                    )
                    _say(f"{name}, {clients} clients: {results[name][clients][-1]}")
            for name in sorted(urls, reverse=bool(number % 2)) if options.gaps else ():
                gaps.setdefault(name, []).append(disturbed(urls[name], prompts, stop_ids))
    return {"results": results, "gaps": gaps, "machine": Machine.here().to_dict(), "slots": options.slots}


def _bundle_folder() -> Path:
    from bmqwen.quant.precision import Precision
    from bmqwen.resolve import resolve_bundle
    from bmqwen.util.progress import Silent

    return resolve_bundle(None, Precision(), offline=True, progress=Silent()).tokenizer_folder


def markdown(report: dict[str, Any], command: str) -> str:
    """The tables: medians over rounds, and of the ratios within each round."""
    ours, peer = (report["results"][name] for name in ("bmqwen", "llama.cpp"))
    columns = ["clients", "tokens/s: bmqwen, llama.cpp", "ratio of a round", "processor ms a token, both"]
    columns += ["first token of bmqwen, s: median, longest", "of llama.cpp"]
    lines = [f"`{command}`", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for clients, rounds in ours.items():
        both = (rounds, peer[clients])
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(*both, strict=True)]
        cells = [str(clients), ", ".join(f"{_median(each, 'tokens_per_s'):.1f}" for each in both)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        cells.append(", ".join(f"{_median(each, 'cpu_ms'):.1f}" for each in both))
        for each in both:
            first = [value for row in each for value in row["first"]]
            cells.append(f"{statistics.median(first):.2f}, {max(first):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    if report["gaps"]:
        title = f"a prompt of {LONG} tokens beside an answer"
        columns = [title, "gap of the answer: longest, median, before, ms", "first token, s"]
        lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, rows in report["gaps"].items():
        spans = ", ".join(f"{1e3 * _median(rows, key):.0f}" for key in ("gap", "usual", "alone"))
        lines.append(f"| {name} | {spans} | {_median(rows, 'first'):.2f} |")
    return "\n".join(lines)


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(statistics.median([row[name] for row in rows]))


def _say(text: str) -> None:
    STDERR.print(text, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 2 (wrong usage or input) or 130 (interrupted)."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--peer"]:
        serve_peer(given[1], int(given[2]), int(given[3]))
        return 0
    parser = argparse.ArgumentParser(prog="python benchmarks/side_by_side.py", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--slots", type=int, default=8, help="of both servers (default: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="of prompts, in turn")
    parser.add_argument("--no-gaps", dest="gaps", action="store_false", help="leave the long prompt out")
    parser.add_argument("--serve", default="", help="more options of bmqwen serve, as one text")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    command = "python benchmarks/side_by_side.py " + shlex.join(given)

    def work() -> Report:
        report = measure(options)
        return Report(markdown(report, command), report)

    return run_benchmark("side_by_side", work, markdown=options.markdown, document=options.json)


if __name__ == "__main__":
    sys.exit(main())
