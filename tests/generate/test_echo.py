"""Prompts that are shown and scored, and answers that end early for other reasons than a stop string."""

from itertools import count

import numpy as np

from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT = TOKENIZER.encode_prompt("<|im_start|>user\n" + "hello 你 " * 20)


def session() -> Session:
    return Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER)


def test_a_prompt_is_scored_as_its_definition_says() -> None:
    of = session()
    assert len(PROMPT) > 64  # more than one step of rows
    params = SamplingParams(max_tokens=3, echo=True, logprobs=2)
    drain(of.generate(PROMPT, SamplingParams(max_tokens=1)))  # what is cached must not be missing
    pieces, completion = drain(of.generate(PROMPT, params))
    assert completion.usage.cached_tokens == 0
    assert completion.text.startswith("<|im_start|>user\n" + "hello 你 " * 20)
    assert "".join(piece.text for piece in pieces) == completion.text
    scored = completion.logprobs
    assert [item.token_id for item in scored] == [*PROMPT, *completion.token_ids]
    assert [item.predicted for item in scored] == [False] + [True] * (len(scored) - 1)
    assert scored[0].top == ()
    runtime = of.runtime
    assert isinstance(runtime, ToyRuntime)
    for place in range(1, len(scored)):
        logits = runtime.logits_after(tuple(item.token_id for item in scored[:place])).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        # float32 logits of magnitude 10.
        np.testing.assert_allclose(scored[place].logprob, expected[scored[place].token_id], atol=1e-5)
        best = np.argsort(-expected, kind="stable")[:2]
        assert [top.token_id for top in scored[place].top] == best.tolist()


def test_an_echo_without_log_probabilities_uses_the_cache() -> None:
    of = session()
    drain(of.generate(PROMPT, SamplingParams(max_tokens=1)))
    _, completion = drain(of.generate(PROMPT, SamplingParams(max_tokens=1, echo=True)))
    assert completion.usage.cached_tokens == len(PROMPT) - 1
    assert completion.text.startswith("<|im_start|>user\n")
    assert completion.logprobs == ()


def test_no_tokens_only_read_the_prompt() -> None:
    of = session()
    pieces, completion = drain(of.generate(PROMPT, SamplingParams(max_tokens=0)))
    assert pieces == []
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", (), "length")
    assert completion.usage.completion_tokens == 0
    assert list(of.tokens) == PROMPT
    _, scored = drain(of.generate(PROMPT, SamplingParams(max_tokens=0, echo=True, logprobs=0)))
    assert len(scored.logprobs) == len(PROMPT)


def test_tokens_that_end_one_answer_only() -> None:
    _, whole = drain(session().generate(PROMPT, SamplingParams(max_tokens=9)))
    end = whole.token_ids[4]
    params = SamplingParams(max_tokens=9, stop_ids=(end,))
    _, cut = drain(session().generate(PROMPT, params))
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(end)]
    assert cut.finish_reason == "stop"


def test_time_ends_an_answer_once_it_has_a_line() -> None:
    line = TOKENIZER.encode("\n")[0]
    runtime = ToyRuntime(
        TOKENIZER.vocab_size, next_token=lambda prefix: line if len(prefix) == len(PROMPT) + 6 else None
    )
    ticks = count()
    of = Session(runtime, TOKENIZER, clock=lambda: float(next(ticks)))
    params = SamplingParams(
        max_tokens=50, line_seconds=2.0, logit_bias=dict.fromkeys(TOKENIZER.stop_ids, -50)
    )
    _, completion = drain(of.generate(PROMPT, params))
    assert completion.finish_reason == "length"
    assert completion.token_ids[-1] == line
    assert len(completion.token_ids) == 7


def test_time_ends_an_answer_without_a_limit_of_its_own() -> None:
    ticks = count()
    of = Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER, clock=lambda: float(next(ticks)))
    params = SamplingParams(seconds=5.0, logit_bias=dict.fromkeys(TOKENIZER.stop_ids, -50))
    _, completion = drain(of.generate(PROMPT, params))
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 7
