"""What bench makes of its runs."""

import pytest

from bmqwen.evaluation.bench import BenchResult
from bmqwen.generate.params import Usage
from bmqwen.version import __version__


def run(first: float, speed: float) -> Usage:
    """A run of 8 tokens after 20."""
    return Usage(
        prompt_tokens=20, cached_tokens=0, completion_tokens=8, first_token_s=first, decode_s=7 / speed
    )


def result(device_bytes: int | None) -> BenchResult:
    """Three runs."""
    runs = (run(0.5, 10.0), run(0.25, 40.0), run(0.75, 20.0))
    return BenchResult("qwen", "int4", "BM1684X, device 0", runs, device_bytes, 300 << 20)


def test_medians_and_spread() -> None:
    measured = result(None).to_dict()
    assert measured["first_token_s"] == 0.5
    assert measured["tokens_per_s"] == pytest.approx(20.0)
    assert measured["first_token_s_range"] == [0.25, 0.75]
    assert measured["first_token_s_spread"] == pytest.approx(0.25)
    assert (measured["prompt_tokens"], measured["new_tokens"]) == (20, 8)
    assert (measured["device_bytes"], measured["host_bytes"]) == (None, 300 << 20)
    one = BenchResult("qwen", "int4", "CPU", (run(0.5, 10.0),), None, 0).to_dict()
    assert one["tokens_per_s_spread"] == 0.0


def test_row_has_the_published_columns_and_the_memory() -> None:
    head, line, row = result(2 << 30).markdown().splitlines()
    assert head == (
        "| platform | program | model | first token latency(s) | token per second(tokens/s) "
        "| tokens in | tokens out | device memory |"
    )
    assert line.count("---") == 8
    assert row == (
        f"| BM1684X, device 0 | bmqwen {__version__} | qwen, int4 | 0.500 (0.250 to 0.750) "
        "| 20.00 (10.00 to 40.00) | 20 | 8 | 2,147 MB |"
    )
    assert result(None).markdown().splitlines()[0].endswith("| host memory |")
    assert result(None).markdown().endswith("| 315 MB |")
