"""What tests of several rooms share: a cache of their own, the demo model, the toolchain."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmqwen.checkpoint.hub import Hub

# The cache of the user who runs the tests: the demo model and the compiler are downloaded once, not once a run.
USER_CACHE = os.environ.get("BMQWEN_CACHE")


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Every test gets an empty cache, save those that need what is large."""
    if not any(request.node.get_closest_marker(name) for name in ("real_model", "simulator", "browser")):
        monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "bmqwen-cache"))
    monkeypatch.delenv("BMQWEN_OFFLINE", raising=False)
    yield


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, downloaded on first use."""
    return Hub().pull()
