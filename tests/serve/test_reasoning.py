"""Thoughts over the API: reasoning_content beside content, streamed as such, counted, and turned off on request."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.live_server import LiveServer, live_server
from support.talker import ANSWERS, THINKS, write_thinker


@pytest.fixture(scope="module")
def reasoning(serve_folder: Path) -> Iterator[LiveServer]:
    with live_server(
        write_thinker(serve_folder / "reasoning"), "--temperature", "0", cache=serve_folder / "cache"
    ) as server:
        yield server


def test_whole(reasoning: LiveServer) -> None:
    body = reasoning.chat("word")
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THINKS.strip(), ANSWERS)
    usage = body["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_streamed(reasoning: LiveServer) -> None:
    deltas = [event["choices"][0]["delta"] for event in reasoning.stream("word")]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THINKS.strip()
    assert "".join(delta.get("content") or "" for delta in deltas) == ANSWERS
    assert all(len(delta.keys() - {"role"}) <= 1 for delta in deltas)


@pytest.mark.parametrize(
    "field", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_turned_off_the_prompt_has_closed_thoughts(reasoning: LiveServer, field: dict[str, object]) -> None:
    usage = reasoning.chat("word", max_tokens=1, **field)["usage"]
    assert usage["prompt_tokens"] > reasoning.chat("word", max_tokens=1)["usage"]["prompt_tokens"]


def test_a_budget(reasoning: LiveServer) -> None:
    body = reasoning.chat("word", thinking_budget=2)
    assert len(body["choices"][0]["message"]["reasoning_content"]) < len(THINKS.strip())
    continued = reasoning.post("/v1/completions", {"prompt": "word", "thinking_budget": 2})
    assert "thinking_budget" in continued.headers["x-bmqwen-ignored"]


def test_thoughts_that_come_back_do_not_reach_an_earlier_turn(reasoning: LiveServer) -> None:
    def tokens(**answer: str) -> list[int]:
        messages = [
            {"role": "user", "content": "word"},
            {"role": "assistant", **answer},
            {"role": "user", "content": "word"},
        ]
        response = reasoning.post("/tokenize", {"messages": messages})
        assert response.status_code == 200, response.text
        found: list[int] = response.json()["tokens"]
        return found

    plain = tokens(content=ANSWERS)
    assert tokens(content=ANSWERS, reasoning_content=THINKS) == plain
    assert tokens(content=f"<think>{THINKS}</think>\n\n{ANSWERS}") == plain


def test_an_answer_that_has_begun_is_gone_on_with(reasoning: LiveServer) -> None:
    """As the page does it: the prompt ends inside of the answer, behind its thoughts."""
    messages = [
        {"role": "user", "content": "word"},
        {"role": "assistant", "content": "hello", "reasoning_content": "and"},
    ]
    begun = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    text = reasoning.post("/apply-template", begun).json()["prompt"]
    assert text.endswith("<|im_start|>assistant\n<think>\nand\n</think>\n\nhello")
    prompt = reasoning.post("/tokenize", begun).json()["tokens"]
    body = reasoning.post("/v1/completions", {"prompt": prompt}).json()
    assert body["choices"][0]["text"] == ANSWERS.removeprefix("hello")
    for wrong, said in (
        ({"messages": messages[:1]}, "the last message is not an answer in text"),
        ({"add_generation_prompt": True}, "add_generation_prompt must be false with"),
        ({"continue_final_message": False}, "add_generation_prompt must be false with"),
    ):
        response = reasoning.post("/tokenize", begun | wrong)
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]


def test_a_text_that_is_only_continued_keeps_its_tags(reasoning: LiveServer) -> None:
    body = reasoning.post("/v1/completions", {"prompt": "hello\n", "temperature": 0, "max_tokens": 12}).json()
    assert "<think>" in body["choices"][0]["text"]
