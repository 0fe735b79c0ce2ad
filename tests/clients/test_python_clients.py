"""Programs that talk to the demo model as their own documentation says: `pytest --clients tests/clients`."""

import os
import subprocess
from pathlib import Path

import pytest

from support.client_environment import environment_python
from support.live_server import LiveServer

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PROGRAMS = sorted(Path(__file__).with_name("programs").glob("*.py"))


@pytest.mark.clients
@pytest.mark.real_model
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program(demo: LiveServer, program: Path, tmp_path: Path) -> None:
    # What agrees with no other has a lock of its own.
    own = program.with_suffix(".txt")
    python = environment_python(own if own.exists() else REQUIREMENTS)
    done = subprocess.run(
        [python, program, demo.url],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "DO_NOT_TRACK": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in demo.log
