"""What is compiled for an estimate, once, and what is kept: with a stand-in for the compiler."""

from pathlib import Path

import pytest

from bmqwen.compiler.plan import Plan, make_plan
from bmqwen.errors import CompileError
from bmqwen.estimate.representative import time_nets
from bmqwen.quant.precision import Precision
from bmqwen.util.paths import cache_folder
from bmqwen.util.progress import Silent
from support.checkpoints import tiny_config
from support.stand_in_compiler import compiled, stand_in


def plan(layers: int = 6) -> Plan:
    config = tiny_config("qwen1.5", layers=layers, hidden_size=128, intermediate_size=256)
    return make_plan(("toy", config), Precision("int4", 32, "int4"), 64, "f16", sequences=1, drafts=False)


def test_each_net_is_compiled_with_one_and_with_two_layers_once(tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path)
    found = time_nets(plan(), toolchain=toolchain, progress=Silent())
    assert set(found) == set(plan().shapes)
    assert {shape: net.profile.cycles for shape, net in found.items()} == {
        shape: 1000 * shape.tokens for shape in plan().shapes
    }
    assert len(compiled(tmp_path)) == 2 * len(plan().shapes)
    again = time_nets(plan(), toolchain=toolchain, progress=Silent())
    assert {shape: net.profile for shape, net in again.items()} == {
        shape: net.profile for shape, net in found.items()
    }
    # More layers are the same two nets.
    time_nets(plan(40), toolchain=toolchain, progress=Silent())
    assert len(compiled(tmp_path)) == 2 * len(plan().shapes)


def test_one_layer_is_compiled_alone(tmp_path: Path) -> None:
    time_nets(plan(1), toolchain=stand_in(tmp_path), progress=Silent())
    assert len(compiled(tmp_path)) == len(plan().shapes)


def test_after_a_failure_the_rest_is_compiled_and_the_log_is_there(tmp_path: Path) -> None:
    broken = stand_in(tmp_path, behaviour='if stage == "8-64":\n    sys.exit("boom")')
    with pytest.raises(CompileError) as caught:
        time_nets(plan(), toolchain=broken, jobs=1, progress=Silent())
    (log,) = cache_folder("estimate").glob("*.log")
    assert str(log) in str(caught.value)
    assert "boom" in log.read_text()
    # Nothing of the work itself is left.
    assert [path for path in cache_folder("estimate").iterdir() if path.is_dir()] == []
    before = compiled(tmp_path)
    found = time_nets(plan(), toolchain=stand_in(tmp_path), jobs=1, progress=Silent())
    assert set(found) == set(plan().shapes)
    finished = [stage for stage in before if stage != "8-64"]
    assert finished
    assert not set(compiled(tmp_path)[len(before) :]) & set(finished)


def test_a_damaged_timing_is_made_anew(tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path)
    time_nets(plan(), toolchain=toolchain, progress=Silent())
    timings = sorted(cache_folder("estimate").glob("*.json.gz"))
    timings[0].write_bytes(timings[0].read_bytes()[:40])
    time_nets(plan(), toolchain=toolchain, progress=Silent())
    assert len(compiled(tmp_path)) == 2 * len(plan().shapes) + 1
