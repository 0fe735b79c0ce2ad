"""Rounds of fresh processes, the engines in turn: A B C, A B C, ..."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmqwen.errors import DeviceError

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
    """What the workers measured, [round][entry].

    Raises DeviceError for an engine that fails; it names the engine and the cause.
    """
    results = []
    for number in range(rounds):
        row = []
        for entry in entries:
            step(f"round {number + 1} of {rounds}: {entry.label}")
            job = {
                "engine": entry.engine,
                "file": str(entry.file),
                "threads": threads,
                "new_tokens": new_tokens,
                "prompts": {name: list(ids) for name, ids in prompts.items()},
            }
            row.append(run_worker(entry.label, job))
        results.append(row)
    return results


def run_worker(label: str, job: Mapping[str, Any], *, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """One job in a fresh process. Raises DeviceError."""
    try:
        ended = subprocess.run(
            [sys.executable, str(WORKER)],
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
