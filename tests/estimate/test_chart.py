"""Charts of a recorded timeline: whole, self-contained, and with what they claim to show."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.profile import read_profile
from bmqwen.compiler.timeline import read_timeline
from bmqwen.errors import InputError
from bmqwen.estimate.chart import write_chart
from bmqwen.estimate.chart_html import round_ticks
from bmqwen.estimate.estimate import Estimate
from bmqwen.estimate.forecast import follow

RECORDED = Path(__file__).parent / "recorded/compiler_profile_0.txt"
SHAPE = StepShape(1, 64)


@pytest.fixture
def estimate() -> Estimate:
    """A model of one net, by an awkward name."""
    profile, timeline = read_profile(RECORDED), read_timeline(RECORDED)
    nets = StepNets(64, {SHAPE: profile.cycles})
    forecast = follow(nets, {SHAPE: profile}, DEFAULT_CHIP.host, prompt_tokens=3, new_tokens=4)
    return Estimate("<b>&", "int4", 1, forecast, {SHAPE: timeline})


def test_a_picture_is_well_formed_and_stays_inside(estimate: Estimate, tmp_path: Path) -> None:
    write_chart(estimate, tmp_path / "chart.svg")
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    width = float(root.attrib["width"])
    pieces = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(pieces) > 20
    for piece in pieces:
        assert (
            0 <= float(piece.get("x", 0)) <= float(piece.get("x", 0)) + float(piece.attrib["width"]) <= width
        )
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "<b>&, int4" in texts
    assert str(SHAPE) in texts


def test_a_page_needs_nothing_else(estimate: Estimate, tmp_path: Path) -> None:
    write_chart(estimate, tmp_path / "chart.html")
    page = (tmp_path / "chart.html").read_text()
    assert "<h1>&lt;b&gt;&amp;, int4</h1>" in page
    assert not any(word in page for word in ("<script", "http:", "https:", "src=", "@import", "<link"))
    for share in estimate.forecast.time_shares.values():
        assert f"{share:.1%}" in page
    assert f"{estimate.tokens_per_s:.1f} tokens/s" in page
    # Where a command comes from can be read.
    assert "gate_proj" in page


def test_a_bundle_has_nothing_to_draw(estimate: Estimate, tmp_path: Path) -> None:
    bare = Estimate(estimate.model, estimate.precision, 1, estimate.forecast, {})
    with pytest.raises(InputError, match="does not hold its nets' timelines"):
        write_chart(bare, tmp_path / "chart.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cycles", [42, 999, 43_212, 580_000, 5_097_000, 123_456_789])
def test_ticks_are_round_and_do_not_touch(cycles: int) -> None:
    ticks = round_ticks(cycles)
    assert ticks[-1] == cycles
    assert len(ticks) <= 8
    assert all(b - a > cycles / 15 for a, b in pairwise(ticks))
