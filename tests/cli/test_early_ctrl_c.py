"""Ctrl-C while the program still imports its parts ends it in one line."""

import signal
import subprocess
import sys

import pytest

from support.program import heed_ctrl_c

# Modules, in the order in which they are loaded: the first one after the program's own first lines.
MOMENTS = ["errno", "typer", "rich.console", "bmqwen.cli.commands", "bmqwen.cli.app"]
STARTS = {
    "module": ["-m", "bmqwen"],
    # What pip writes for the command `bmqwen`.
    "command": ["-c", "import sys; from bmqwen.cli import main; sys.exit(main())"],
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("start", sorted(STARTS))
def test_ctrl_c_among_the_imports(start: str, moment: str) -> None:
    command = [sys.executable, "-X", "importtime", *STARTS[start], "--version"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == moment:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    # The last import may be over before the signal arrives; then the program has done what it was asked.
    if process.returncode != 0:
        assert process.returncode in (130, -signal.SIGINT)
        assert output == ""
    assert said == (["bmqwen: interrupted"] if process.returncode == 130 else [])
