"""Tiny models, and servers of them that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.checkpoints import tiny_config, write_checkpoint
from support.live_server import ENDLESS, KEY, LiveServer, live_server


@pytest.fixture(scope="session")
def serve_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and cache of these tests: conversions are made once."""
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="session")
def thinker(serve_folder: Path) -> Path:
    """Random weights: every answer depends on all that was said."""
    return write_checkpoint(serve_folder / "thinker", tiny_config(max_position_embeddings=4096))


@pytest.fixture(scope="module")
def talking(talker: Path, serve_folder: Path) -> Iterator[LiveServer]:
    with live_server(talker, cache=serve_folder / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def endless(chatterbox: Path, serve_folder: Path) -> Iterator[LiveServer]:
    with live_server(
        chatterbox,
        *ENDLESS,
        "--queue",
        "3",
        "--stop-seconds",
        "1",
        cache=serve_folder / "cache",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def thinking(thinker: Path, serve_folder: Path) -> Iterator[LiveServer]:
    with live_server(
        thinker, "--api-key", KEY, "--cors-origin", "https://chat.example.org", cache=serve_folder / "cache"
    ) as server:
        server.client.headers["authorization"] = f"Bearer {KEY}"
        yield server
