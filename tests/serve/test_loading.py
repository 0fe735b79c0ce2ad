"""A server that is not ready yet."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from support.live_server import live_server


def test_health_is_503_while_the_model_loads(talker: Path, serve_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bmqwen", "serve", str(talker), "--port", str(port), "--threads", "1"]
    with live_server(talker, cache=serve_folder / "cache"):
        pass  # converted now
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env=os.environ | {"BMQWEN_CACHE": str(serve_folder / "cache")}
    )
    seen: list[tuple[int, str]] = []
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            end = time.monotonic() + 60
            while time.monotonic() < end and (200, "ok") not in seen:
                try:
                    response = client.get("/health")
                except httpx.TransportError:
                    continue
                seen.append((response.status_code, response.json()["status"]))
            assert seen[0] == (503, "loading")
            assert seen[-1] == (200, "ok")
    finally:
        process.terminate()
        assert process.wait(40) == 0
