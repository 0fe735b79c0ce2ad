"""What /metrics says: all that the guides list, and the numbers of what was really asked; and what no log may hold."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bmqwen.serve.metrics import Metrics, joined
from bmqwen.serve.pool.pool import Pool
from bmqwen.serve.pool.wire import EngineState
from support.live_server import LiveServer, live_server

GUIDES = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def served(talker: Path, serve_folder: Path) -> Any:
    """A server that nobody else asks."""
    with live_server(talker, cache=serve_folder / "cache") as server:
        yield server


def test_what_was_asked_is_counted(served: LiveServer) -> None:
    usages = [served.chat("say it")["usage"] for _ in range(3)]
    assert served.post("/v1/chat/completions", {"messages": []}).status_code == 400
    text = served.client.get("/metrics").text

    def value(line: str) -> float:
        (found,) = re.findall(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found)

    chat = 'endpoint="/v1/chat/completions"'
    assert value(f'bmqwen_requests_total{{{chat},status="200"}}') == 3
    assert value(f'bmqwen_requests_total{{{chat},status="400"}}') == 1
    assert value('bmqwen_answers_total{cache="miss",finish="stop"}') == 1
    assert value('bmqwen_answers_total{cache="hit",finish="stop"}') == 2
    assert value("bmqwen_prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
    assert value("bmqwen_completion_tokens_total") == sum(usage["completion_tokens"] for usage in usages)
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert value("bmqwen_cached_tokens_total") == sum(cached) > 0
    for name in ("bmqwen_queue_seconds", "bmqwen_first_token_seconds", "bmqwen_tokens_per_second"):
        assert value(f"{name}_count") == 3
        assert value(f'{name}_bucket{{le="+Inf"}}') == 3
    assert 0 < value("bmqwen_first_token_seconds_sum") < 60
    assert value('bmqwen_engine_memory_bytes{engine="0"}') > 10e6


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guides_list_all_of_it(served: LiveServer, language: str) -> None:
    page = (GUIDES / language / "server.md").read_text(encoding="utf-8")
    (section,) = [section for section in page.split("\n## ") if "`saved_conversations_bytes`" in section]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    listed = set(re.findall(r"`([a-z_]+)`", "".join(rows)))
    told = re.findall(r"^# TYPE bmqwen_(\S+)", served.client.get("/metrics").text, re.MULTILINE)
    assert set(told) == listed


class OneEngine:
    """A scheduler of one engine on a chip."""

    waiting, running = 2, 1

    def __init__(self, state: EngineState) -> None:
        self.replicas = [
            SimpleNamespace(labels={"engine": "3"}, state="ready", memory=state, restarts=1, hangs=0)
        ]


@pytest.mark.parametrize("used", [None, 5 << 30])
def test_memory_of_a_chip_is_told_where_there_is_one(used: int | None) -> None:
    pool = cast(Pool, OneEngine(EngineState(device_bytes=used)))
    said = joined([Metrics(pool, {})]).decode()
    values = re.findall(r'^bmqwen_device_memory_bytes\{engine="3"\} (\S+)$', said, re.MULTILINE)
    assert [float(value) for value in values] == ([] if used is None else [used])
    assert "bmqwen_queue_length 2.0" in said


def test_metrics_of_several_models_are_told_apart() -> None:
    pool = cast(Pool, OneEngine(EngineState(memory_bytes=7)))
    large, small = Metrics(pool, {"model": "large"}), Metrics(pool, {"model": "small"})
    small.left.inc()
    said = joined([large, small]).decode()
    assert said.count("# TYPE bmqwen_cancelled_answers_total counter") == 1
    assert 'bmqwen_cancelled_answers_total{model="large"} 0.0' in said
    assert 'bmqwen_cancelled_answers_total{model="small"} 1.0' in said
    assert 'bmqwen_engine_memory_bytes{engine="3",model="small"} 7.0' in said


def test_no_text_and_no_query_is_written_down(served: LiveServer) -> None:
    served.chat("a-secret-question")
    assert served.client.get("/v1/models?api_key=a-secret-key").status_code == 200
    assert served.client.get("/a%0Asecret-line").status_code == 404
    assert "GET /v1/models 200" in served.log
    assert "secret-question" not in served.log
    assert "secret-key" not in served.log
    assert "\nsecret-line" not in served.log
