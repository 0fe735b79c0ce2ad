"""Every engine that a command offers is in the table, and a bundle is refused by those that cannot run it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bmqwen.artifact.bundle import Kind
from bmqwen.errors import InputError
from bmqwen.runtime.registry import RUNTIMES, EngineName, Options, check_checkpoint, open_runtime

OPTIONS = Options(simulator_folder=lambda: Path("none"), devices=(1,))


def test_the_engines_are_those_of_the_table() -> None:
    assert set(RUNTIMES) == set(get_args(Kind))
    assert {name for engines in RUNTIMES.values() for name in engines} == set(get_args(EngineName))
    assert all("auto" in engines for engines in RUNTIMES.values())


@pytest.mark.parametrize(
    ("kind", "engine", "fix"),
    [
        ("onnx", "sim", "runs compiled models only: `bmqwen compile` it, then name the bundle"),
        ("bmodel", "cpu", "cannot run a compiled model: name the model that it was made from"),
    ],
)
def test_an_engine_for_other_bundles_is_refused_with_the_way_out(kind: Kind, engine: Any, fix: str) -> None:
    bundle: Any = SimpleNamespace(kind=kind, place="here", model="toy")
    with pytest.raises(InputError, match=f"engine {engine} {fix}"):
        open_runtime(bundle, engine, OPTIONS)


@pytest.mark.parametrize(("kind", "engine"), [("onnx", "auto"), ("onnx", "cpu"), ("bmodel", "sim")])
def test_a_device_is_chosen_for_chips_only(kind: Kind, engine: Any) -> None:
    bundle: Any = SimpleNamespace(kind=kind, place="here", model="toy")
    with pytest.raises(InputError, match="no device 1 to choose: toy does not run on a chip"):
        open_runtime(bundle, engine, OPTIONS)


def test_a_checkpoint_is_for_the_cpu() -> None:
    check_checkpoint("auto")
    with pytest.raises(InputError, match="engine tpu runs compiled models only"):
        check_checkpoint("tpu")
