"""What tests of the program ask of its processes."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

# The editor begins each prompt with it (bracketed paste); ">>>" itself may be painted several times.
PROMPT = re.escape("\x1b[?2004h")

Run = Callable[..., subprocess.CompletedProcess[str]]


def heed_ctrl_c() -> None:
    """A process started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON document that a command printed."""
    content = json.loads(done.stdout)
    assert isinstance(content, dict)
    return content


def assert_refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """One clear line on stderr that has `words`, the exit code, no traceback, nothing on stdout.

    Lines of progress ("converting ...") may stand before it.
    """
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""
