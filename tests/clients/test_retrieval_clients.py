"""Programs that ask for embeddings, beside a chat model: `pytest --clients tests/clients`."""

import subprocess
from pathlib import Path

import pytest

from support.client_environment import environment_python
from support.live_server import live_server
from support.retrieval_models import write_embedder

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PROGRAM = Path(__file__).with_name("programs") / "retrieval" / "embeddings.py"


@pytest.mark.clients
def test_embeddings(talker: Path, tmp_path: Path) -> None:
    embedder = write_embedder(tmp_path / "embedder")
    with live_server(talker, "--embedding", str(embedder), cache=tmp_path / "cache") as server:
        done = subprocess.run(
            [environment_python(REQUIREMENTS), PROGRAM, server.url],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Traceback" not in server.log
