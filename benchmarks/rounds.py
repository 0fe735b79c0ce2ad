"""Rounds of fresh processes, the engines in turn: A B C, A B C, ..."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmqwen.errors import DeviceError
from bmqwen.util.paths import cache_folder

WORKER = Path(__file__).with_name("peer_worker.py")
# Far above what a round takes, so that an engine that hangs ends the benchmark.
PATIENCE_S = 1800


@dataclass(frozen=True, slots=True)
class Entry:
    """One column of the comparison.

    Attributes:
        label: for people.
        engine: its name in `contenders.CONTENDERS`.
        file: the model's GGUF file.
        weight_bytes: size on disk of what it loads.
    """

    label: str
    engine: str
    file: Path
    weight_bytes: int


def run_rounds(
    entries: Sequence[Entry],
    *,
    rounds: int,
    threads: int,
    new_tokens: int,
    prompts: Mapping[str, Sequence[int]],
    step: Callable[[str], None] = lambda _text: None,
) -> list[list[dict[str, Any]]]:
    """What the workers measured, [round][entry]; a short answer of each engine comes first, which does not count.

    It leaves files in the system's memory, and Python's modules compiled, as an installation leaves them.
    Raises DeviceError for an engine that fails; it names the engine and the cause.
    """
    jobs = {
        entry: {
            "engine": entry.engine,
            "file": str(entry.file),
            "threads": threads,
            "new_tokens": new_tokens,
            "prompts": {name: list(ids) for name, ids in prompts.items()},
        }
        for entry in entries
    }
    if rounds:
        shortest = min(prompts, key=lambda name: len(prompts[name]))
        for entry, job in jobs.items():
            step(f"before the rounds: {entry.label}")
            run_worker(entry.label, job | {"new_tokens": 1, "prompts": {shortest: list(prompts[shortest])}})
    results = []
    for number in range(rounds):
        row = []
        for entry, job in jobs.items():
            step(f"round {number + 1} of {rounds}: {entry.label}")
            row.append(run_worker(entry.label, job))
        results.append(row)
    return results


def run_worker(label: str, job: Mapping[str, Any], *, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """One job in a fresh process. Raises DeviceError."""
    # Bytecode is used, whatever this machine's setting, and kept apart from the checkout.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache_folder("benchmarks") / "bytecode")
    try:
        ended = subprocess.run(
            [sys.executable, str(WORKER)],
            env=environment,
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{label} was ended: it took more than {patience_s:.0f} seconds") from None
    try:
        result: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        last = (ended.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise DeviceError(f"{label} ended with status {ended.returncode} and no result: {last}") from None
    if "error" in result:
        raise DeviceError(f"{label} failed: {result['error']}")
    return result
