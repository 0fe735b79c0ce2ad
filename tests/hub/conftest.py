"""A local server with a tiny model."""

from collections.abc import Iterator

import pytest

from support.local_hub import FILES, REPO
from support.pull_server import HubServer


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(REPO, FILES) as running:
        yield running
