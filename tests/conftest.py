"""What tests of several rooms share: a cache of their own, the demo model, the toolchain, compiled toy models."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.errors import BundleError
from bmqwen.hub.hub import Hub
from bmqwen.quant.precision import Format
from bmqwen.util.storage import path_lock
from support.checkpoints import Kind
from support.compiled_models import CompiledModel, compile_toy, read_toy
from support.kept import forget_unused
from support.talker import write_talker

# Each takes up to a gigabyte, and starts servers, simulators and browsers besides.
MOST_WORKERS = 4
# What a test needs, the dearest first.
MARKERS = ("simulator", "real_model", "browser", "reference")

# Hundreds of processes are started, and compiling what each imports would take longer than all else that they do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine must not fail a property test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What runs in the background ignores Ctrl-C, and its children inherit that: tests that send it must be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is not for every run."""
    parser.addoption("--registry", action="store_true", help="also run the tests that ask a package index")
    parser.addoption("--clients", action="store_true", help="also run programs that talk to the server")
    parser.addoption("--thorough", action="store_true", help="also prove at length what others prove in part")
    parser.addoption("--cluster", action="store_true", help="also run a fleet on a cluster of Ray nodes")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Let each core run tests, and one more while others wait; named ones run in this process, which starts at once."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named else min(MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    left_out = (
        ("registry", "asks a package index"),
        ("clients", "installs client programs"),
        ("cluster", "starts a cluster"),
        ("thorough", "takes long"),
    )
    for name, reason in left_out:
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"{reason}: give --{name}")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the time goes: seconds of the workers by marker, those of a test with two under the first."""
    seconds = dict.fromkeys((*MARKERS, "no marker"), 0.0)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[next((name for name in MARKERS if name in report.keywords), "no marker")] += (
                    report.duration
                )
    spent = ", ".join(f"{name} {spent:,.0f} s" for name, spent in seconds.items() if spent)
    if spent:
        terminalreporter.write_line(f"by marker: {spent}")


def pytest_sessionfinish() -> None:
    """Keep no more than what is used."""
    forget_unused()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test gets an empty cache, save those that need what is large."""
    if not any(request.node.get_closest_marker(name) for name in ("real_model", "simulator", "browser")):
        monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "bmqwen-cache"))
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope-cache"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "huggingface-cache"))
        # The library has read its variable already.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface-cache"))
    monkeypatch.delenv("BMQWEN_OFFLINE", raising=False)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def talker(models: Path) -> Path:
    """Answers everything with talker.SAYS."""
    return write_talker(models / "talker")


@pytest.fixture(scope="session")
def chatterbox(models: Path) -> Path:
    """Talks for a minute, if there are no drafts."""
    return write_talker(models / "chatterbox", endless=True, context=60_000, layers=2)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, downloaded on first use."""
    return Hub().pull()


@pytest.fixture(scope="session")
def simulator() -> Toolchain:
    """The real compiler and simulator."""
    return open_toolchain()


@pytest.fixture(scope="session")
def compiled(
    simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind, Format, int], CompiledModel]:
    """Compiles a toy model of a kind, a format and a seed; later calls, of other workers too, get the same one."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    made: dict[Path, CompiledModel] = {}

    def get(kind: Kind, form: Format, seed: int) -> CompiledModel:
        folder = place / f"compiled-{kind}-{form}-{seed}"
        if folder not in made:
            with path_lock(folder):
                try:
                    made[folder] = read_toy(folder)
                except BundleError:
                    # Not made yet, or in part by one who failed.
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    made[folder] = compile_toy(simulator, folder, kind, form, seed)
        return made[folder]

    return get
