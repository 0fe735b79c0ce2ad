"""Sampling against a naive reference that follows the definitions word by word."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bmqwen.errors import DeviceError, InputError
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.sampler import Sampler, draw, largest, token_logprob
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()


def logits_of(seed: int, size: int = 300, ties: bool = False) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    return np.round(logits).astype(np.float32) if ties else logits


def naive_distribution(logits: NDArray[np.float32], params: SamplingParams) -> dict[int, float]:
    """Token ids that may be drawn, with their probabilities."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.top_k:
        order = order[: params.top_k]
    weights = np.exp((logits[order].astype(np.float64) - logits.max()) / params.temperature)
    probabilities = list(weights / weights.sum())
    count, mass = 1, probabilities[0]
    while count < len(order) and mass < params.top_p:
        mass += probabilities[count]
        count += 1
    kept = [
        (token, probability)
        for token, probability in zip(order[:count], probabilities[:count], strict=True)
        if probability >= params.min_p * probabilities[0]
    ]
    total = sum(probability for _, probability in kept)
    return {token: probability / total for token, probability in kept}


@given(
    seed=st.integers(0, 2**32),
    temperature=st.floats(0.1, 2),
    top_k=st.sampled_from([0, 1, 2, 7, 299, 300, 10_000]),
    top_p=st.sampled_from([0.01, 0.3, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    size=st.sampled_from([1, 5, 300, 5000]),
    ties=st.booleans(),
)
@example(seed=0, temperature=2.0, top_k=0, top_p=0.95, min_p=0.0, size=5000, ties=True)
@example(seed=0, temperature=2.0, top_k=0, top_p=0.95, min_p=0.05, size=5000, ties=False)
def test_what_can_be_drawn_is_what_the_definitions_say(
    seed: int, size: int, ties: bool, **fields: Any
) -> None:
    params = SamplingParams(**fields)
    logits = logits_of(seed, size, ties)
    ids, weights = Sampler(params, size).candidates(logits)
    ours = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    expected = naive_distribution(logits, params)
    # A token whose cumulative probability meets top_p to the last bit may fall on either side.
    edge = set(ours) ^ set(expected)
    assert sum(ours.get(token, 0) + expected.get(token, 0) for token in edge) < 1e-4 or not edge
    assert all(abs(ours[token] - expected[token]) < 1e-4 for token in set(ours) & set(expected))


@pytest.mark.parametrize(
    "fields",
    [{}, {"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.9, "temperature": 0.5}],
)
def test_draws_follow_the_distribution(fields: dict[str, Any]) -> None:
    params = SamplingParams(**{"temperature": 1.0, "seed": 1, **fields})
    logits = logits_of(3, 40)
    sampler = Sampler(params, 40)
    draws = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=40) / 20_000
    expected = naive_distribution(logits, params)
    assert set(np.flatnonzero(draws)) <= set(expected)
    for token, probability in expected.items():
        assert abs(draws[token] - probability) < 5 * np.sqrt(probability / 20_000) + 1e-4


@given(
    st.integers(0, 2**32),
    st.integers(1, 1000),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.3, 0.002]),
)
@example(0, 1000, 0.0, 0.002)
@example(0, 1000, float(np.nextafter(1, 0)), 0.002)
def test_draw_is_the_inverse_of_the_running_sum(seed: int, size: int, chance: float, density: float) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.random(size) * (generator.random(size) < density)).astype(np.float32)
    weights[generator.integers(size)] = 1
    place = draw(weights, chance)
    total = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    assert weights[place] > 0
    assert total[place] >= chance - 1e-6
    assert place == 0 or total[place - 1] <= chance + 1e-6


def test_equal_seeds_draw_equal_tokens() -> None:
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 300)
        return [sampler.sample(logits_of(step)) for step in range(50)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_greedy_takes_the_lowest_of_equals_and_needs_no_logits() -> None:
    sampler = Sampler(SamplingParams(), 5)
    assert not sampler.needs_logits
    assert sampler.sample(np.array([0, 2, 1, 2, 0], np.float32)) == 1


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.5}, {"logprobs": 0}, {"logit_bias": {1: 1.0}}, {"presence_penalty": 0.1},
     {"frequency_penalty": 0.1}, {"repetition_penalty": 1.1}],
)  # fmt: skip
def test_all_else_needs_logits(fields: dict[str, Any]) -> None:
    assert Sampler(SamplingParams(**fields), 5).needs_logits


@given(
    seed=st.integers(0, 2**32),
    prompt=st.lists(st.integers(0, 19)),
    answer=st.lists(st.integers(0, 19)),
    repetition=st.sampled_from([0.5, 1.0, 1.3]),
    presence=st.sampled_from([-1.0, 0.0, 0.7]),
    frequency=st.sampled_from([-0.5, 0.0, 0.4]),
    bias=st.dictionaries(st.integers(0, 19), st.sampled_from([-100.0, -1.0, 2.5]), max_size=4),
)
def test_penalties_and_bias(
    seed: int,
    prompt: list[int],
    answer: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    logits = logits_of(seed, 20)
    untouched = logits.copy()
    sampler = Sampler(params, 20, prompt)
    for token in answer:
        sampler.record(token)
    expected = logits.astype(np.float64)
    for token in range(20):
        expected[token] += bias.get(token, 0.0)
        if token in prompt or token in answer:
            expected[token] *= repetition if expected[token] <= 0 else 1 / repetition
        expected[token] -= frequency * answer.count(token) + presence * (token in answer)
    chosen = sampler.sample(logits)
    assert expected[chosen] >= expected.max() - 1e-4
    assert (logits == untouched).all()


@given(st.integers(0, 2**32), st.integers(1, 400), st.booleans(), st.sampled_from([1, 200, 129, 30_000]))
def test_largest_is_a_stable_sort(seed: int, count: int, ties: bool, size: int) -> None:
    values = logits_of(seed, size, ties)
    count = min(count, size)
    assert largest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_tokens_that_are_ruled_out_are_never_drawn() -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[[5, 250]] = 1.0
    for fields in ({}, {"top_k": 10}, {"top_p": 0.9}, {"min_p": 0.1}):
        sampler = Sampler(SamplingParams(temperature=1.0, **fields), 300)
        assert {sampler.sample(logits) for _ in range(50)} <= {5, 250}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_the_devices_fault(value: float, temperature: float) -> None:
    logits = logits_of(0)
    logits[17] = value
    with pytest.raises(DeviceError, match="not numbers"):
        Sampler(SamplingParams(temperature=temperature), 300).sample(logits)
    with pytest.raises(DeviceError, match="not numbers"):
        Sampler(SamplingParams(temperature=temperature), 300).sample(np.full(300, -np.inf, np.float32))


def test_a_bias_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="token 300"):
        Sampler(SamplingParams(logit_bias={300: 1.0}), 300)


def test_log_probabilities_are_of_the_unmodified_distribution() -> None:
    logits = logits_of(5, TOKENIZER.vocab_size)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    entry = token_logprob(logits, 65, 3, TOKENIZER)
    assert abs(entry.logprob - expected[65]) < 1e-5
    assert [top.token_id for top in entry.top] == np.argsort(-logits)[:3].tolist()
    assert all(abs(top.logprob - expected[top.token_id]) < 1e-5 and top.top == () for top in entry.top)
    assert entry.data == TOKENIZER.token_bytes(65)
    assert token_logprob(logits, 65, 0, TOKENIZER).top == ()
