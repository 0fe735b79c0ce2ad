"""A chip's facts stand in chip/ alone."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import bmqwen
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import CHIP_NAMES, DEFAULT_CHIP, SPECS, spec_of
from bmqwen.compiler.plan import make_plan
from bmqwen.compiler.tpuc import Recipe, _passes
from bmqwen.errors import BundleError
from bmqwen.quant.precision import Precision
from support.checkpoints import tiny_config

SOURCES = Path(bmqwen.__file__).parent
# Names of kinds of chips, their numbers, and the machines that they are sold in.
NAMES = r"(bm|cv|0x|libcmodel_|_)?1(684|686|688)\w*|cv186\w*|emmcboot|\b(SE7|SE9|SM7|SC7|Airbox)\b|cortex-a53|\bA53\b"


def numbers() -> list[str]:
    """As code would write them."""
    written = []
    for value in (DEFAULT_CHIP.bus / 1e9, DEFAULT_CHIP.copy / 1e9):
        written += [f"{value:g}e9", f"{value:g} GB/s", f"{value:g}_000_000_000"]
    host = DEFAULT_CHIP.host.op_ms
    layouts = [size for layout in (DEFAULT_CHIP.board.most, DEFAULT_CHIP.board.now) for size in (layout.npu,)]
    return [*written, f"{DEFAULT_CHIP.bus / 1e9:g}", f"{host:g}", f"{host * 1e6:_.0f}", *map(str, layouts)]


def literals(text: str) -> list[str]:
    """Lines of a source that know a chip."""
    pattern = rf"{NAMES}|(?<![\w.])({'|'.join(map(re.escape, numbers()))})(?![\w.]?\w)"
    return [line.strip() for line in text.splitlines() if re.search(pattern, line, re.IGNORECASE)]


def test_no_other_source_knows_a_chip() -> None:
    files = [path for ending in ("py", "js", "html", "css") for path in SOURCES.rglob(f"*.{ending}")]
    read = [path for path in files if path.parent.name != "chip" and "vendor" not in path.parts]
    assert len(read) > 100
    found = {str(path.relative_to(SOURCES)): lines for path in read if (lines := literals(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        'CHIP = "BM1684X"',
        "chip=bm1684x",
        "0x1686",
        "68.3e9",
        "26e9",
        "142_500",
        "on an SE7 box",
        "libbm1684x_kernel",
    ],
)
def test_a_literal_is_found(line: str) -> None:
    assert literals(line)


def test_a_chip_is_selected_by_its_name() -> None:
    assert spec_of("BM1684X", "x.bmodel") is DEFAULT_CHIP
    assert set(SPECS) <= set(CHIP_NAMES.values())


@pytest.mark.parametrize("name", ["BM1688", "bm1684x", "", "\n", "5"])
def test_a_chip_without_a_spec_is_refused(name: str) -> None:
    with pytest.raises(
        BundleError, match=r"x\.bmodel was compiled for .*, and only nets for BM1684X can be run: "
    ):
        spec_of(name, "x.bmodel")


@pytest.mark.parametrize("chip", ["BM1688", "", None, 5, ["BM1684X"]])
def test_a_manifest_with_another_chip_is_refused(chip: object) -> None:
    details = StepNets(32, {StepShape(1, 32): 1}).to_dict() | {"chip": chip}
    with pytest.raises(
        BundleError, match=r"^bundle was compiled for .*, and only nets for BM1684X can be run: "
    ):
        StepNets.from_dict(details, "bundle")


def test_one_spec_is_all_that_another_chip_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of kernels, addresses, the compiler's target and the bundle's own name follow it."""
    other = replace(DEFAULT_CHIP, name="BM9999", cores=2, memory_start=1 << 40, most_queries=16)
    monkeypatch.setitem(SPECS, other.name, other)
    mine, its = (
        make_plan(("toy", tiny_config()), Precision.choose("int4", 64), 64, "f16", chip=chip)
        for chip in (DEFAULT_CHIP, other)
    )
    assert mine.key != its.key
    assert mine.text(StepShape(64, 0)) != its.text(StepShape(64, 0))
    starts = [json.loads(plan.addresses(StepShape(64, 0)))["io_addr"] for plan in (mine, its)]
    assert starts[1] - starts[0] == (1 << 40) - DEFAULT_CHIP.memory_start
    assign = next(a for a in _passes("net", Recipe(its.mode, chip=its.chip))[0] if "processor-assign" in a)
    assert "chip=bm9999 " in assign
    assert "num_core=2 " in assign
    details = StepNets(32, {StepShape(1, 32): 1}, chip=other.name).to_dict()
    assert StepNets.from_dict(details, "bundle").chip == "BM9999"
