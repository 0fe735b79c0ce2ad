"""bmqwen's CPU engine and llama.cpp on the same model, machine and minute: one command, one table.

    python benchmarks/cpu_peers.py --rounds 5 --threads 2 --quality --markdown table.md --json results.json

What is measured, and how, is in benchmarks/README.md.
"""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agreement import markdown as agreement_table
from agreement import score_grids
from bmqwen.artifact.bundle import Bundle
from bmqwen.cli.terminal import STDERR, progress_bar, use_utf8
from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.hub import Hub
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.util.installation import install_command
from bmqwen.util.text import size_text
from bmqwen.weights.checkpoint import open_checkpoint
from comparison import Comparison
from machine import Machine
from q4_0 import q4_0_file
from report import Report, run_benchmark
from rounds import Entry, run_rounds

TEXTS = Path(__file__).with_name("texts")
TEXT_NAMES = ("english", "chinese", "code")
PROMPT_TOKENS = {"short": 20, "long": 400}
# Module of each peer, and how to install it.
PEERS = {
    "xllamacpp": ("xllamacpp", install_command("bench")),
    "llama-cpp-python": (
        "llama_cpp",
        "pip install llama-cpp-python (builds llama.cpp; needs a C++ compiler)",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 (failed), 2 (wrong usage or input) or 130 (interrupted)."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    command = "python benchmarks/cpu_peers.py " + shlex.join(given)

    def measure() -> Report:
        report = run(options, command)
        return Report(report["markdown"], report)

    return run_benchmark("cpu_peers", measure, markdown=options.markdown, document=options.json)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """All that was asked for, as one report. Raises BmqwenError."""
    if options.rounds < 1 and not options.quality:
        raise InputError("nothing to do: --rounds 0 needs --quality")
    if options.rounds < 0 or options.threads < 1 or options.new_tokens < 2:
        raise InputError("--rounds must not be negative, --threads at least 1, --new-tokens at least 2")
    peers = list(dict.fromkeys(options.peer or ["xllamacpp"])) if options.rounds else []
    for peer in peers:
        require(peer, *PEERS[peer])
    with progress_bar() as bar:
        path = Hub().resolve(options.model, progress=bar)
        if path.suffix != ".gguf":
            raise InputError(f"{path} is not a GGUF file, which llama.cpp needs: name one with --model")
        bundle = resolve_bundle(str(path), Precision(), progress=bar)
        with open_checkpoint(path) as checkpoint:
            name, shipped = checkpoint.name, checkpoint.precision
            started = partial(bar.start, "making the Q4_0 file for llama.cpp (once)", None)
            q4_0 = path if shipped == "Q4_0" else q4_0_file(checkpoint, started)
    texts = {name: (TEXTS / f"{name}.txt").read_text(encoding="utf-8") for name in TEXT_NAMES}
    machine = Machine.here()
    report: dict[str, Any] = {
        "command": command,
        "machine": machine.to_dict(),
        "model": name,
        "packages": {package: version(package) for package in ("bmqwen", "onnxruntime", "gguf", "numpy")},
    }
    lines = [
        f"`{command}`",
        "",
        f"{name}, {options.threads} threads; {machine.text()}",
    ]
    if options.rounds:
        entries = [Entry("bmqwen", "bmqwen", path, bundle.total_bytes)]
        for peer in peers:
            maker = f" ({peer})" if len(peers) > 1 else ""
            for kind, file in {"Q4_0": q4_0, shipped: path}.items():
                entries.append(Entry(f"llama.cpp {kind}{maker}", peer, file, file.stat().st_size))
        timings, table = _time(entries, prompts_of(texts, bundle), machine, options)
        report |= timings
        lines += ["", *table]
    if options.quality:
        qualities, table = _judge(path, q4_0, shipped, texts, options.threads)
        report |= qualities
        lines += ["", *table]
    return report | {"markdown": "\n".join(lines)}


def require(peer: str, module: str, fix: str) -> None:
    """Raise MissingDependencyError unless a peer's module is there."""
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(f"the peer {peer} is not installed: {fix}")


def prompts_of(texts: Mapping[str, str], bundle: Bundle) -> dict[str, list[int]]:
    """The timed prompts as token ids: the beginning of the English text, which goes on as the program."""
    ids = Tokenizer.from_folder(bundle.folder).encode(texts["english"] + texts["code"])
    return {name: ids[:length] for name, length in PROMPT_TOKENS.items()}


def _time(
    entries: list[Entry], prompts: dict[str, list[int]], machine: Machine, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """The timed part: for JSON, and as lines of Markdown."""
    results = run_rounds(
        entries,
        rounds=options.rounds,
        threads=options.threads,
        new_tokens=options.new_tokens,
        prompts=prompts,
        step=_say,
    )
    comparison = Comparison([entry.label for entry in entries], results)
    versions = {
        entry.label: str(result["version"]) for entry, result in zip(entries, results[0], strict=True)
    }
    notes = _notes(versions, machine)
    report = {
        "threads": options.threads,
        "new_tokens": options.new_tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "versions": versions,
        "weight_bytes": {entry.label: entry.weight_bytes for entry in entries},
        "notes": notes,
        **comparison.to_dict(),
    }
    table = [comparison.markdown(PROMPT_TOKENS), ""]
    table += [
        f"- {entry.label}: {versions[entry.label]}; {size_text(entry.weight_bytes)} on disk"
        for entry in entries
    ]
    how = f"medians of {options.rounds} rounds (least to greatest), ratios taken within each round"
    table += [f"- {options.new_tokens} greedy tokens after each prompt; {how}."]
    return report, table + [f"- {note}" for note in notes]


def _notes(versions: dict[str, str], machine: Machine) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = []
    wide = "avx512f" in machine.flags
    plain = [label for label, text in versions.items() if "llama" in text and "AVX512 = 1" not in text]
    if wide and plain:
        notes.append(
            f"{', '.join(plain)}: this build of llama.cpp does not use AVX-512, which this processor has; "
            "`--peer llama-cpp-python` measures one that was built for it."
        )
    if machine.load > 0.5:
        notes.append(
            f"The machine was not idle before (load average {machine.load:.2f}): do not quote these numbers."
        )
    return notes


def _judge(
    path: Path, q4_0: Path, shipped: str, texts: dict[str, str], threads: int
) -> tuple[dict[str, Any], list[str]]:
    """The quality part: for JSON, and as lines of Markdown."""
    with progress_bar() as bar:
        scores = score_grids(path, q4_0, texts, threads=threads, progress=bar, step=_say)
    counts = ", ".join(f"{name} {score.tokens}" for name, score in next(iter(scores.values())).items())
    rounding = (
        "Weights alone: the grid in float32 arithmetic. What llama.cpp loses by rounding activations to 8 bit is left "
        "out, in its favour; what bmqwen loses by the same is in its row."
    )
    notes = [
        f"Tokens: {counts}. The float model is the {shipped} file dequantised to float32.",
        rounding,
    ]
    report = {
        "agreement": {
            label: {name: one.to_dict() for name, one in row.items()} for label, row in scores.items()
        },
        "agreement_notes": notes,
    }
    return report, [agreement_table(scores), "", *(f"- {note}" for note in notes)]


def _say(text: str) -> None:
    STDERR.print(text, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/cpu_peers.py",
        description="Compare bmqwen's CPU engine with llama.cpp, side by side.",
    )
    parser.add_argument("--model", help="a GGUF file, or a short name of one (default: the demo model)")
    parser.add_argument(
        "--peer", action="append", choices=sorted(PEERS), help="may be repeated (default: xllamacpp)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of fresh processes; 0: no timing (default: 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of every engine (default: 2)")
    parser.add_argument("--new-tokens", type=int, default=96, help="length of every answer (default: 96)")
    parser.add_argument(
        "--quality", action="store_true", help="measure KL and top-1 agreement as well (minutes)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table, which is printed as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
