"""A program that downloads, watched by what it writes: it reports nothing itself, and may hang."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bmqwen.errors import DownloadError
from bmqwen.util.disk import size_below
from bmqwen.util.progress import Report
from bmqwen.util.text import counted

_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: for messages.
        command: program and arguments.
        folder: where it works; None: here.
        environment: more variables for it.
    """

    name: str
    command: Sequence[str]
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def run_watched(program: Program, incoming: Path, log: Path, report: Report, stall: float) -> int:
    """Run it to its end; it is ended with everything that it started when this is left early.

    Args:
        program: what to run.
        incoming: the folder that it downloads to.
        log: file for what it prints.
        report: is told the bytes in that folder, as they grow.
        stall: seconds without a byte or a word after which it is given up.

    Returns:
        Its exit code.

    Raises:
        DownloadError: it stalled.
    """
    # What programs say may hold an index's password.
    with open(log, "wb", opener=_private) as out:
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=program.folder,
            env={**os.environ, **program.environment},
            start_new_session=True,
        )
        try:
            _watch(process, program.name, incoming, log, report, stall)
        finally:
            _end(process)
    return process.returncode


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _watch(
    process: "subprocess.Popen[bytes]", name: str, incoming: Path, log: Path, report: Report, stall: float
) -> None:
    seen, most, since = (-1, -1), 0, time.monotonic()
    while process.poll() is None:
        state = (size_below(incoming), log.stat().st_size)
        if state != seen:
            seen, since = state, time.monotonic()
            if state[0] > most:  # less when the program moves what is finished away
                most = state[0]
                report(most)
        elif time.monotonic() - since > stall:
            raise DownloadError(
                f"{name} got nothing for {counted(round(stall), 'second')}: check the network and try again"
            )
        time.sleep(_POLL_SECONDS)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            return
