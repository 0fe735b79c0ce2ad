"""Fields of a request that change an answer do change it, each as its definition says."""

from typing import Any

import pytest

from support.live_server import LiveServer


def answers(server: LiveServer, **fields: Any) -> list[str]:
    """The choices' texts for one question, of a model whose every token is a surprise."""
    choices = server.chat("word", **{"max_tokens": 40, **fields})["choices"]
    return [choice["message"]["content"] for choice in choices]


@pytest.fixture(scope="module")
def greedy(thinking: LiveServer) -> list[str]:
    """It repeats itself."""
    return answers(thinking, temperature=0)


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"min_p": 1}, {"top_p": 1e-6}])
def test_what_leaves_one_token_is_greedy(
    thinking: LiveServer, greedy: list[str], fields: dict[str, float]
) -> None:
    hot = {"temperature": 2, "top_p": 1, "top_k": 0, "repetition_penalty": 1, "seed": 3}
    assert answers(thinking, **hot) != greedy
    assert answers(thinking, **hot | fields) == greedy


@pytest.mark.parametrize(
    "fields", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 5}]
)
def test_penalties_end_repetition(thinking: LiveServer, greedy: list[str], fields: dict[str, float]) -> None:
    assert answers(thinking, temperature=0, **fields) != greedy


def test_a_seed_repeats_an_answer_and_its_choices_differ(thinking: LiveServer) -> None:
    first = answers(thinking, temperature=1, seed=5, n=3)
    assert answers(thinking, temperature=1, seed=5, n=3) == first
    assert len(set(first)) == 3
    assert answers(thinking, temperature=1, seed=6, n=3) != first


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_is_as_long_as_asked(thinking: LiveServer, name: str) -> None:
    body = thinking.chat("word", temperature=0, logit_bias={"299": -100}, **{name: 7})
    assert body["usage"]["completion_tokens"] == 7
    assert body["choices"][0]["finish_reason"] == "length"
