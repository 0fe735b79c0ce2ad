"""Charts and traces of a recorded timeline: whole, and with what they claim to show."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.timing import read_profile, read_timeline
from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.estimate.chart import check_chart, write_chart
from bmqwen.estimate.cost import Chips
from bmqwen.estimate.estimate import Estimate
from bmqwen.estimate.forecast import Question, simulate
from bmqwen.estimate.trace import write_trace

RECORDED = Path(__file__).parent / "recorded/compiler_profile_0.txt"
SHAPE = StepShape(1, 64)


@pytest.fixture
def estimate() -> Estimate:
    """A model of one net, by an awkward name."""
    profile, timeline = read_profile(RECORDED), read_timeline(RECORDED)
    nets = StepNets(64, {SHAPE: profile.cycles})
    forecast = simulate(nets, Chips([{SHAPE: profile}]), DEFAULT_CHIP.host, Question(3, 4))
    return Estimate("<b>&$x", "int4", 1, forecast, {SHAPE: timeline})


@pytest.mark.parametrize(("name", "start"), [("c.svg", b"<?xml"), ("c.PNG", b"\x89PNG"), ("c.pdf", b"%PDF")])
def test_a_picture_is_of_the_kind_that_its_name_says(
    estimate: Estimate, tmp_path: Path, name: str, start: bytes
) -> None:
    check_chart(tmp_path / name)
    write_chart(estimate, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_picture_says_what_it_shows(estimate: Estimate, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("matplotlib").rcParams, "svg.fonttype", "none")
        write_chart(estimate, tmp_path / "chart.svg")
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    texts = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert "<b>&$x, int4" in texts
    assert f"{estimate.forecast.tokens_per_s:.1f} tokens/s" in texts
    assert f"{SHAPE}: first of 1 layers" in texts
    for share in estimate.forecast.time_shares.values():
        assert f"{share:.1%}" in texts
    width = float(root.attrib["viewBox"].split()[2])
    shares = [
        element
        for element in root.iter()
        if (element.text or "").endswith("%") and " " in (element.text or "")
    ]
    assert len(shares) == len(estimate.forecast.time_shares)
    for element in shares:
        place = re.search(r"translate\(([-\d.]+)", element.attrib.get("transform", ""))
        assert 0 < float(place[1] if place else element.attrib["x"]) < 0.9 * width


def test_a_picture_needs_its_library_and_a_known_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"chart\.gif names no kind of picture"):
        check_chart(tmp_path / "chart.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package matplotlib: .*plot"):
        check_chart(tmp_path / "chart.svg")


def test_a_trace_has_every_command_and_every_gap(estimate: Estimate, tmp_path: Path) -> None:
    write_trace(estimate, tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["otherData"]["tokens_per_s"] == estimate.forecast.tokens_per_s
    named = {e["args"]["name"] for e in document["traceEvents"] if e["ph"] == "M"}
    assert {"memory bus", "compute", "bus idle", f"{SHAPE}: 1 of 1 layers, and the head"} == named
    timeline = estimate.timelines[SHAPE]
    spans = [e for e in document["traceEvents"] if e["ph"] == "X"]
    lanes = [[e for e in spans if e["tid"] == lane] for lane in (1, 2, 3)]
    assert [len(lane) for lane in lanes[:2]] == [
        sum(c.bus is bus for c in timeline.commands) for bus in (True, False)
    ]
    bus, compute, idle = (sum(e["dur"] for e in lane) * 1e3 for lane in lanes)
    assert bus == pytest.approx(timeline.bus_busy)
    assert compute == pytest.approx(sum(c.end - c.start for c in timeline.commands if not c.bus))
    assert bus + idle == pytest.approx(timeline.cycles)
    # Where a command comes from can be read.
    assert any("gate_proj" in e["name"] and e["args"]["part"] == "weights" for e in spans)
    assert all(0 <= e["ts"] <= e["ts"] + e["dur"] <= timeline.cycles / 1e3 + 1e-9 for e in spans)
