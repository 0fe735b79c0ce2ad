"""Clients for Node, against the demo model: `pytest --clients tests/clients`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.kept import kept, key_of
from support.live_server import LiveServer

NODE = Path(__file__).with_name("node")


@pytest.mark.clients
@pytest.mark.real_model
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_node_clients(demo: LiveServer, tmp_path: Path) -> None:
    lock = NODE / "package-lock.json"

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in (NODE / "package.json", lock):
            shutil.copy(file, folder)
        subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True)

    modules = kept(key_of([lock.read_bytes()]), make) / "node_modules"
    # Modules are looked for beside the file that asks for them.
    (tmp_path / "node_modules").symlink_to(modules)
    test = shutil.copy(NODE / "clients.test.mjs", tmp_path)
    done = subprocess.run(
        ["node", "--test", test],
        capture_output=True,
        text=True,
        timeout=800,
        env=os.environ | {"BMQWEN_URL": demo.url},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Traceback" not in demo.log
