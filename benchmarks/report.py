"""How a benchmark ends: its report is printed and written; an error is one sentence and an exit code."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmqwen.errors import BmqwenError
from bmqwen.util.storage import write_file


@dataclass(frozen=True)
class Report:
    """What was measured: a table for people, and a document of JSON. `good`: no check failed."""

    markdown: str
    document: Mapping[str, Any]
    good: bool = True


def run_benchmark(
    name: str,
    measure: Callable[[], Report | None],
    *,
    markdown: Path | None = None,
    document: Path | None = None,
) -> int:
    """Measure, print the report if there is one, write it to the files that are wanted, and return the exit code.

    0, 1 (failed, or a check was), 2 (wrong usage or input) or 130 (interrupted).
    """
    try:
        report = measure()
        if report is None:
            return 0
        print(report.markdown)
        if markdown:
            write_file(markdown, (report.markdown + "\n").encode())
        if document:
            write_file(document, json.dumps(report.document, ensure_ascii=False, indent=1).encode())
    except BmqwenError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0 if report.good else 1
