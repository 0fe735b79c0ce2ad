"""Programs that people connect, at fixed versions, in environments of their own: with --clients only."""

from collections.abc import Iterator

import pytest

from support.live_server import LiveServer


@pytest.fixture(scope="session")
def demo() -> Iterator[LiveServer]:
    """The demo model, as everybody has it."""
    with LiveServer(None, ["--name", "demo"], {}) as server:
        yield server
