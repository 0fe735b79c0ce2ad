"""`bmqwen info` on a bmodel that is no bundle."""

from pathlib import Path

import pytest

from bmqwen.compiler.toolchain import open_toolchain
from bmqwen.compiler.tpuc import Recipe
from support.program import Run, assert_refused, document
from support.simulator_nets import compile_text, linear_text

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("content", [b"", b"\xee\xaa\x55\xff", b"not a bmodel" * 100])
def test_what_is_no_bmodel_is_refused_in_one_line(content: bytes, bmqwen_here: Run, tmp_path: Path) -> None:
    (tmp_path / "foreign.bmodel").write_bytes(content)
    for options in ([], ["--json"]):
        assert_refused(
            bmqwen_here("info", tmp_path / "foreign.bmodel", *options), "foreign.bmodel is not a bmodel"
        )


def test_nets_shapes_and_memory_and_a_cut_file(bmqwen: Run, bmqwen_here: Run, tmp_path: Path) -> None:
    compiled = compile_text(
        open_toolchain(), tmp_path / "net", "linear", linear_text("linear", 8), Recipe("F16")
    )
    facts = document(bmqwen("info", compiled.bmodel, "--json"))
    assert (facts["kind"], facts["chip"]) == ("bmodel file", "BM1684X")
    assert facts["bytes"] == compiled.bmodel.stat().st_size
    tensor = {"dtype": "f16", "shape": [1, 8, 64]}
    (net,) = facts["nets"]
    assert (net["name"], net["dynamic"], net["address_mode"]) == ("linear", False, "io_alone")
    (stage,) = net["stages"]
    assert (stage["inputs"], stage["outputs"]) == ([{"name": "x", **tensor}], [{"name": "y", **tensor}])
    assert facts["device_bytes"] > stage["weight_bytes"] >= 64 * 64 * 2
    shown = bmqwen("info", compiled.bmodel)
    assert shown.returncode == 0
    assert "net linear: static, address mode io_alone, 1 stage" in shown.stdout
    assert "[1, 8, 64]" in shown.stdout
    cut = tmp_path / "cut.bmodel"
    content = compiled.bmodel.read_bytes()
    for size in (200, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:size])
        assert_refused(bmqwen_here("info", cut), "cut.bmodel is")
