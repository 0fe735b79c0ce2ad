"""What tests of several rooms share: a cache of their own, the demo model, the toolchain."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from bmqwen.checkpoint.hub import Hub

# A busy machine must not fail a property test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What runs in the background ignores Ctrl-C, and its children inherit that: tests that send it must be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test gets an empty cache, save those that need what is large."""
    if not any(request.node.get_closest_marker(name) for name in ("real_model", "simulator", "browser")):
        monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "bmqwen-cache"))
    monkeypatch.delenv("BMQWEN_OFFLINE", raising=False)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, downloaded on first use."""
    return Hub().pull()
