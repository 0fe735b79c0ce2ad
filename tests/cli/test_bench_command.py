"""`bmqwen bench` on the engines that there are without a chip."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bmqwen.quant.precision import Format
from support.checkpoints import Kind
from support.compiled_models import CompiledModel
from support.program import Run, assert_refused, document

QUICK = ("--max-tokens", "4", "--repeats", "2", "--warmup", "0")


def test_on_the_cpu(bmqwen: Run, chatterbox: Path) -> None:
    measured = document(bmqwen("bench", chatterbox, *QUICK, "--json"))
    assert measured["engine"].startswith("CPU, ONNX Runtime")
    assert (measured["new_tokens"], len(measured["runs"]), measured["device_bytes"]) == (4, 2, None)
    assert measured["host_bytes"] > 20e6
    assert (
        measured["first_token_s_range"][0] <= measured["first_token_s"] <= measured["first_token_s_range"][1]
    )
    shown = bmqwen("bench", chatterbox, *QUICK)
    assert shown.returncode == 0
    assert "| first token latency(s) | token per second(tokens/s) |" in shown.stdout
    assert shown.stdout.rstrip().endswith("MB |")


@pytest.mark.simulator
def test_on_the_simulator(bmqwen: Run, compiled: Callable[[Kind, Format, int], CompiledModel]) -> None:
    bundle = compiled("qwen2.5", "int4", 5).bundle.folder
    measured = document(bmqwen("bench", bundle, "--engine", "sim", "-p", "hi", *QUICK, "--json"))
    assert measured["engine"] == "simulator of a BM1684X"
    assert (measured["new_tokens"], len(measured["runs"])) == (4, 2)
    assert measured["first_token_s"] > 0
    assert measured["tokens_per_s"] > 0
    # Weights and K/V rows, at least.
    assert measured["device_bytes"] > 100_000


def test_what_is_refused(bmqwen_here: Run, chatterbox: Path) -> None:
    assert_refused(
        bmqwen_here("bench", chatterbox, "--engine", "sim"), "engine sim runs compiled models only"
    )
    assert_refused(bmqwen_here("bench", chatterbox, "--repeats", "0"), "--repeats")
    assert_refused(bmqwen_here("bench", chatterbox, "--context", "64", "-p", "x" * 100), "tokens", "-p")
