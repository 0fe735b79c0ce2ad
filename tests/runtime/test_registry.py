"""Every engine that a command offers is in the table, and a bundle is refused by those that cannot run it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bmqwen.artifact.bundle import Bundle, FileEntry, Kind, part_file
from bmqwen.cli.commands.serve import chip_groups
from bmqwen.errors import BundleError, InputError
from bmqwen.runtime.registry import RUNTIMES, EngineName, Options, check_checkpoint, open_runtime
from support.checkpoints import tiny_config

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


def test_each_part_of_a_bundle_gets_a_chip(tmp_path: Path) -> None:
    details = {
        "parts": [{"layers": n, "bmodel": part_file(i), "device_bytes": 9} for i, n in ((1, 2), (2, 1))]
    }
    files = {part_file(number): FileEntry(1, "") for number in (1, 2)}
    config = tiny_config(layers=3)
    bundle = Bundle(tmp_path, "bmodel", "toy", config, {}, details, files=files)
    assert [part.config.layers for part in bundle.parts] == [range(2), range(2, 3)]
    assert replace(OPTIONS, devices=(2,)).chips(bundle) == (2, 3)
    assert replace(OPTIONS, devices=(2, 0)).chips(bundle) == (2, 0)
    with pytest.raises(InputError, match="--device 0,1,2: toy was compiled for 2 chips, name as many"):
        replace(OPTIONS, devices=(0, 1, 2)).chips(bundle)
    assert chip_groups(bundle, [0, 1, 3, 2]) == [(0, 1), (3, 2)]
    assert chip_groups(bundle, [1]) == [(1,)]
    assert chip_groups(bundle, []) == []
    with pytest.raises(
        InputError, match="--device 0,1,2: toy was compiled for 2 chips, name 2 for each engine"
    ):
        chip_groups(bundle, [0, 1, 2])
    broken: dict[str, Any]
    for broken in ({"parts": [{}]}, {"parts": details["parts"][:1]}):
        with pytest.raises(BundleError, match="its parts"):
            replace(bundle, details=broken).parts  # noqa: B018
