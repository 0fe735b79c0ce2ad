"""A fleet on a Ray cluster of three node processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

SUPPORT = Path(__file__).parents[1]
START_SECONDS = 300.0


class RayFleet:
    """A fleet that `bmqwen cluster serve` started.

    Attributes:
        url: its address.
        folder: with its configuration and its cache.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder = folder
        # Ray's paths of sockets have a limit.
        self._place = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")
        self._environment = os.environ | {
            "NO_COLOR": "1",
            "BMQWEN_CACHE": str(folder / "cache"),
            "RAY_TMPDIR": self._place.name,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]),
        }
        self._log = (folder / "nodes.log").open("wb")
        self._nodes = subprocess.Popen(
            [sys.executable, "-m", "support.ray_nodes", str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            text=True,
        )
        assert self._nodes.stdout is not None
        self.address = self._nodes.stdout.readline().strip()
        assert self.address, (folder / "nodes.log").read_text()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def node(self, command: str) -> None:
        """ "kill" or "add" a node."""
        assert self._nodes.stdin is not None
        assert self._nodes.stdout is not None
        self._nodes.stdin.write(f"{command}\n")
        self._nodes.stdin.flush()
        assert self._nodes.stdout.readline().strip() == "done"

    def run(self, config: Any, *options: str, command: str = "serve") -> subprocess.CompletedProcess[str]:
        """`bmqwen cluster`, until it has ended."""
        file = self.folder / "fleet.yaml"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "bmqwen",
                "cluster",
                command,
                str(file),
                "--address",
                self.address,
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=self._environment,
            check=False,
        )

    def serve(self, *models: dict[str, Any], **settings: Any) -> None:
        """Start or update the fleet, and wait until it is there."""
        config = {
            "models": models,
            "port": self.port,
            "front": {"cpus": 0, "resources": {"front": 1}},
            **settings,
        }
        done = self.run(config, "--detach")
        assert done.returncode == 0, done.stderr

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a model's replicas."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                    ours = self._place.name.encode() in (folder / "environ").read_bytes()
                except OSError:
                    continue
                if ours and command.startswith(f"ray::ServeReplica:bmqwen:{deployment}".encode()):
                    found.append(int(folder.name))
        return found

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30).json()
        return body

    def wait_for(self, engines: int, seconds: float) -> float:
        """Wait until so many engines are ready; returns after how many seconds they were."""
        begin = time.monotonic()
        while True:
            try:
                if self.health()["ready"] == engines and len(self.replicas("")) >= engines:
                    return time.monotonic() - begin
            except httpx.HTTPError:
                pass
            assert time.monotonic() - begin < seconds, self.health()
            time.sleep(0.5)

    def wait_for_replicas(self, deployment: str, count: int, seconds: float) -> float:
        """Wait until a model has so many processes; returns after how many seconds it had."""
        begin = time.monotonic()
        while len(self.replicas(deployment)) != count:
            assert time.monotonic() - begin < seconds, self.replicas(deployment)
            time.sleep(0.5)
        return time.monotonic() - begin

    def close(self) -> None:
        """End all of it."""
        assert self._nodes.stdin is not None
        self._nodes.stdin.close()
        try:
            self._nodes.wait(60)
        except subprocess.TimeoutExpired:
            self._nodes.send_signal(signal.SIGKILL)
            self._nodes.wait()
        self._log.close()
        self._place.cleanup()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def models_of(rambler: Path, talker: Path, update: str = "") -> list[dict[str, Any]]:
    """The models of the fleet."""
    shared = {"quant": "f32", "threads": 1, "cache_mb": 64, "reproducible": True, "update": update}
    return [
        {"model": str(rambler), "name": "rambler", "replicas": 3, "sequences": 4, **shared},
        {"model": str(talker), "name": "talker", "replicas": 1, "sequences": 2, **shared},
    ]
