"""Going through an answer with the times of another machine's steps."""

from collections.abc import Sequence

import pytest

from bmqwen.errors import InputError
from drafts import StepTimes, agreement, parsed_times
from support.toy_runtime import ToyRuntime

TEXT = list(range(100, 150))


def test_an_answer_that_repeats_the_prompt_takes_few_steps() -> None:
    plain, drafted = StepTimes({1: 20.0, 8: 21.0, 16: 22.0}).replay(TEXT, TEXT, None)
    assert plain == 50.0
    # At best, two tokens until there is a match and then 16 a step.
    assert 300 < drafted <= 1000 * 50 / (2 * 20 + 3 * 22)


def test_a_model_costs_its_tokens() -> None:
    class Counting:
        cost = 1.0

        def guess(self, tokens: Sequence[int], count: int) -> list[int]:
            return [tokens[-1] + place + 1 for place in range(count)]

    times = StepTimes({1: 80.0, 8: 82.0}, draft=8.0)
    _, drafted = times.replay([7], TEXT, Counting())
    assert 1000 / 82 < drafted <= 1000 * 8 / (82 + 7 * 8)


def test_agreement_counts_tokens_that_a_model_finds_likeliest() -> None:
    """Whatever it was fed before, and over several pieces."""
    runtime = ToyRuntime(300, next_token=lambda prefix: (prefix[-1] + 1) % 300)
    answer = [token for token in range(10, 110) if token != 50]
    assert agreement(runtime, [7, 8, 9], answer) == 98
    assert agreement(runtime, [7, 8, 8], answer) == 97


def test_times_are_read() -> None:
    assert parsed_times("7B=1:80,8:82.5,draft:7") == ("7B", StepTimes({1: 80.0, 8: 82.5}, 7.0))
    for text in ("7B", "7B=8:82", "7B=1:x", "7B=1"):
        with pytest.raises(InputError, match="not of the form"):
            parsed_times(text)
