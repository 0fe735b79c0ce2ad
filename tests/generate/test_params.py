"""Sampling parameters are checked on construction."""

from typing import Any

import pytest

from bmqwen.errors import InputError
from bmqwen.generate.params import SamplingParams, Usage, choose_params


@pytest.mark.parametrize(
    ("field", "value", "span"),
    [
        ("temperature", -0.1, "from 0 to 2"),
        ("temperature", 2.1, "from 0 to 2"),
        ("temperature", float("nan"), "from 0 to 2"),
        ("temperature", "1", "from 0 to 2"),
        ("temperature", True, "from 0 to 2"),
        ("top_k", -1, "from 0 to"),
        ("top_k", 1.5, "whole number"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", float("inf"), "from 0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("presence_penalty", -2.5, "from -2 to 2"),
        ("frequency_penalty", 3, "from -2 to 2"),
        ("logit_bias", {-1: 0.0}, "whole number"),
        ("logit_bias", {7: 101.0}, "token 7"),
        ("seed", -1, "from 0 to"),
        ("seed", 2**64, "from 0 to"),
        ("max_tokens", -1, "from 0 to"),
        ("max_tokens", True, "from 0 to"),
        ("stop", ("",), "an empty text"),
        ("stop", "END", "tuple"),
        ("stop", ("a",) * 17, "at most 16"),
        ("stop", ("a" * 1001,), "1000 characters"),
        ("logprobs", 21, "from 0 to 20"),
    ],
)
def test_a_wrong_value_is_named_with_its_range(field: str, value: Any, span: str) -> None:
    with pytest.raises(InputError, match=span) as caught:
        SamplingParams(**{field: value})
    assert field in str(caught.value)


def test_bounds_belong_to_the_ranges() -> None:
    SamplingParams(
        temperature=2, top_k=0, top_p=1, min_p=0, presence_penalty=-2, seed=0, max_tokens=1, logprobs=0
    )
    SamplingParams(temperature=0, top_p=1e-9, min_p=1, frequency_penalty=2, seed=2**64 - 1, logprobs=20)


def test_speed_is_of_the_tokens_after_the_first() -> None:
    assert Usage(10, 0, 11, first_token_s=1.0, decode_s=2.0).tokens_per_s == 5.0
    assert Usage(10, 0, 1, first_token_s=1.0, decode_s=0.0).tokens_per_s == 0.0


def test_what_is_given_goes_before_the_defaults() -> None:
    defaults = SamplingParams(temperature=0.7, top_k=20, repetition_penalty=1.05, max_tokens=9)
    assert choose_params(defaults, {"top_k": 1, "seed": 3}) == SamplingParams(
        temperature=0.7, top_k=1, repetition_penalty=1.05, max_tokens=9, seed=3
    )


def test_temperature_0_takes_the_most_likely_token_unless_a_penalty_is_given() -> None:
    defaults = SamplingParams(temperature=0.7, top_k=20, repetition_penalty=1.05, max_tokens=9)
    assert choose_params(defaults, {"temperature": 0}) == SamplingParams(max_tokens=9)
    asked = choose_params(defaults, {"temperature": 0, "presence_penalty": 1})
    assert asked == SamplingParams(presence_penalty=1, max_tokens=9)
