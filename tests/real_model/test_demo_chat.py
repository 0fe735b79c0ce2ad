"""The demo model through the command line, as the README shows it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_model
PROMPT = "请使用python写一段冒泡排序算法。"


def bmqwen(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    # With another process beside it, two threads that wait for each other are slower than one.
    command = [sys.executable, "-m", "bmqwen", *arguments, "--threads", "1"]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=600, check=False)


def test_the_published_prompt_gets_a_bubble_sort_that_sorts(demo_model: Path, tmp_path: Path) -> None:
    result = bmqwen("chat", str(demo_model), "--temperature", "0", "--json", "-p", PROMPT)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    text = answer["text"]
    assert re.search(r"[\u4e00-\u9fff]{4}", text), text
    assert answer["finish_reason"] == "stop"
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None, text
    name = re.search(r"def (\w+)\(", code[1])
    assert name is not None, text
    check = (
        f"{code[1]}\nvalues = [5, 3, 9, -1, 3, 0]\nresult = {name[1]}(values)\n"
        "assert (values if result is None else result) == [-1, 0, 3, 3, 5, 9]\n"
    )
    (tmp_path / "answer.py").write_text(check, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-I", "answer.py"], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()


def test_a_second_turn_reads_only_what_is_new(demo_model: Path) -> None:
    from bmqwen.engine import load
    from bmqwen.generate.params import SamplingParams

    with load(demo_model, context_length=2048, threads=1) as engine:
        chat = engine.chat(params=SamplingParams(max_tokens=64))
        first = "".join(chat.stream("My name is Ada. What is 2 + 2?"))
        assert chat.last is not None
        before = chat.last.usage
        second = "".join(chat.stream("What is my name?"))
        usage = chat.last.usage
        assert "4" in first
        assert "Ada" in second
        assert usage.cached_tokens >= before.prompt_tokens + before.completion_tokens - 1
        assert usage.prompt_tokens - usage.cached_tokens < 25


@pytest.mark.thorough
def test_bench_prints_a_row_of_the_published_table(demo_model: Path) -> None:
    result = bmqwen(
        "bench", str(demo_model), "--repeats", "2", "--warmup", "0", "--max-tokens", "8", "--json"
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["new_tokens"] == 8
    assert measured["first_token_s"] > 0
    assert measured["tokens_per_s"] > 0
    assert len(measured["runs"]) == 2
