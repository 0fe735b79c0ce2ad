"""Medians, ratios and the table of the benchmark's rounds."""

from typing import Any

import pytest

from comparison import METRICS, Comparison, Metric

SPEED = Metric("long_tokens_per_s", "decoding after {long} tokens", True, 1)


def run(speed: float) -> dict[str, Any]:
    return {metric.key: 1.0 for metric in METRICS} | {"long_tokens_per_s": speed, "text": "x"}


# In the second round something disturbed both engines.
ROUNDS = [[run(60), run(40)], [run(15), run(10)], [run(66), run(33)]]


def test_ratios_are_taken_within_a_round() -> None:
    comparison = Comparison(["ours", "peer"], ROUNDS)
    ours, ratio = comparison.spread(SPEED, 0), comparison.ratio(SPEED, 1)
    assert (ours.median, ours.low, ours.high) == (60, 15, 66)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 2.0))


def test_table_has_a_row_a_metric_and_a_ratio_a_peer() -> None:
    lines = (
        Comparison(["ours", "a", "b"], [[run(50), run(40), run(100)]])
        .markdown({"short": 7, "long": 11})
        .splitlines()
    )
    assert lines[0] == "|  | ours | a | b | ours / a | ours / b |"
    assert len(lines) == 2 + len(METRICS)
    assert {line.count("|") for line in lines} == {7}
    [row] = [line for line in lines if "decoding after 11 tokens" in line]
    assert "higher is better" in row
    assert row.endswith(
        "| 50.0 (50.0 to 50.0) | 40.0 (40.0 to 40.0) | 100.0 (100.0 to 100.0) "
        "| 1.25 (1.25 to 1.25) | 0.50 (0.50 to 0.50) |"
    )


def test_json_keeps_every_run() -> None:
    content = Comparison(["ours", "peer"], ROUNDS).to_dict()
    assert [row["peer"]["long_tokens_per_s"] for row in content["runs"]] == [40, 10, 33]
    assert set(content["ratios"]) == {"peer"}
    assert content["engines"]["ours"]["long_tokens_per_s"] == {"median": 60, "min": 15, "max": 66}
