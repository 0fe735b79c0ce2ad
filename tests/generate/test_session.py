"""One KV cache: what is fed, what is streamed, and what an interrupt leaves behind."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.errors import ContextLengthError, DeviceError, InputError
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from bmqwen.runtime.base import Feed, Output
from support.toy_runtime import NextToken, ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
END = TOKENIZER.control_tokens["<|im_end|>"]
PROMPT = TOKENIZER.encode("What is the answer to everything?")  # more than two pieces of 8
GREEDY = SamplingParams(max_tokens=12)


def session(**options: Any) -> Session:
    return Session(ToyRuntime(TOKENIZER.vocab_size, **options), TOKENIZER)


def toy(of: Session) -> ToyRuntime:
    assert isinstance(of.runtime, ToyRuntime)
    return of.runtime


def run(of: Session, prompt: list[int], params: SamplingParams = GREEDY, **options: Any) -> Completion:
    return drain(of.generate(prompt, params, **options))[1]


def saying(text: str, *, then: int | None = END) -> NextToken:
    """Answer PROMPT with a text, then with `then`."""
    answer = [*TOKENIZER.encode(text), *([] if then is None else [then])]

    def next_token(prefix: tuple[int, ...]) -> int | None:
        place = len(prefix) - len(PROMPT)
        return answer[place] if 0 <= place < len(answer) else None

    return next_token


def test_an_answer_ends_at_the_stop_token() -> None:
    of = session(next_token=saying("hello 你😀"))
    pieces, completion = drain(of.generate(PROMPT, SamplingParams()))
    assert completion.text == "hello 你😀" == "".join(piece.text for piece in pieces)
    assert completion.finish_reason == "stop"
    assert list(completion.token_ids) == TOKENIZER.encode("hello 你😀")
    assert completion.usage.prompt_tokens == len(PROMPT)
    assert completion.usage.completion_tokens == len(completion.token_ids) + 1
    assert (
        toy(of).tokens == [*PROMPT, *completion.token_ids] == list(of.tokens)
    )  # the stop token is never fed


def test_the_prompt_is_fed_as_planned_and_each_token_once() -> None:
    of = session()
    completion = run(of, PROMPT)
    assert toy(of).feeds[:5] == [(0, 8), (8, 8), (16, 8), (24, len(PROMPT) - 24), (len(PROMPT), 1)]
    assert sum(length for _, length in toy(of).feeds) == len(PROMPT) + completion.usage.completion_tokens - 1


@given(
    first=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    second=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    shared=st.integers(0, 30),
    piece=st.integers(1, 9),
)
def test_cached_equals_fresh(first: list[int], second: list[int], shared: int, piece: int) -> None:
    second = first[:shared] + second
    params = SamplingParams(max_tokens=6, temperature=0.8, seed=3)
    used = session(piece=piece)
    run(used, first, params)
    before = list(used.tokens)
    again = run(used, second, params)
    fresh = run(session(), second, params)
    assert (again.text, again.token_ids, again.finish_reason) == (
        fresh.text,
        fresh.token_ids,
        fresh.finish_reason,
    )
    common = 0
    while common < min(len(before), len(second) - 1) and before[common] == second[common]:
        common += 1
    assert again.usage.cached_tokens == common
    assert toy(used).tokens == list(used.tokens) == [*second, *again.token_ids][: len(used.tokens)]


def test_the_same_prompt_again_feeds_its_end() -> None:
    of = session(next_token=saying("ok"))
    first = run(of, PROMPT)
    toy(of).feeds.clear()
    assert run(of, PROMPT).text == first.text
    assert toy(of).feeds[0] == (len(PROMPT) - 1, 1)


def test_greedy_copies_no_logits() -> None:
    of = session()
    run(of, PROMPT)
    assert toy(of).logits_reads == 0
    assert toy(of).greedy_reads == 12
    run(of, PROMPT, SamplingParams(max_tokens=3, logprobs=0))
    assert (toy(of).logits_reads, toy(of).greedy_reads) == (3, 12)


@pytest.mark.parametrize(
    "params", [{"temperature": 0.9, "seed": 5}, {"logprobs": 2}, {"repetition_penalty": 1.0}]
)
def test_a_seed_gives_the_same_text_however_the_prompt_is_fed(params: dict[str, Any]) -> None:
    texts = {
        run(session(piece=piece), PROMPT, SamplingParams(max_tokens=20, **params)).text
        for piece in (1, 5, 64)
    }
    assert len(texts) == 1


@given(seed=st.integers(0, 1000), stops=st.lists(st.text("abcdefgh .é", min_size=1, max_size=2), max_size=4))
def test_streamed_equals_whole(seed: int, stops: list[str]) -> None:
    pieces, completion = drain(
        session().generate(
            PROMPT, SamplingParams(max_tokens=30, temperature=1.5, seed=seed, stop=tuple(stops))
        )
    )
    assert "".join(piece.text for piece in pieces) == completion.text
    assert TOKENIZER.decode(completion.token_ids).startswith(completion.text)
    assert not any(stop in completion.text for stop in stops)


def test_a_stop_string_across_tokens_ends_the_answer() -> None:
    of = session(next_token=saying("I say. User: no", then=None))
    pieces, completion = drain(of.generate(PROMPT, SamplingParams(stop=("\nUser:", ". User:"))))
    assert completion.text == "I say"
    assert completion.finish_reason == "stop"
    assert all("." not in piece.text for piece in pieces)
    assert TOKENIZER.decode(completion.token_ids) == "I say. User:"


def test_text_that_only_began_a_stop_string_is_shown_at_the_end() -> None:
    assert (
        run(session(next_token=saying("so. Us")), PROMPT, SamplingParams(stop=(". User:",))).text == "so. Us"
    )


def test_no_half_character_at_the_length_limit() -> None:
    bytes_of = TOKENIZER.encode("a你")
    completion = run(session(next_token=saying("a你")), PROMPT, SamplingParams(max_tokens=len(bytes_of) - 1))
    assert (completion.text, completion.finish_reason) == ("a", "length")
    assert len(completion.token_ids) == completion.usage.completion_tokens == len(bytes_of) - 1


def test_a_character_that_the_model_itself_left_unfinished_is_marked() -> None:
    broken = TOKENIZER.encode("你")[:1]

    def next_token(prefix: tuple[int, ...]) -> int | None:
        return [*broken, END][len(prefix) - len(PROMPT)]

    assert run(session(next_token=next_token), PROMPT).text == "\ufffd"


def test_the_context_limits_the_answer() -> None:
    of = session(context_length=len(PROMPT) + 5)
    completion = run(of, PROMPT, SamplingParams(max_tokens=100))
    assert completion.finish_reason == "length"
    assert completion.usage.completion_tokens == 5


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers() -> None:
    of = session(context_length=len(PROMPT))
    with pytest.raises(ContextLengthError) as caught:
        next(of.generate(PROMPT, GREEDY))
    assert (caught.value.got, caught.value.limit) == (len(PROMPT), len(PROMPT) - 1)
    assert toy(of).feeds == []
    with pytest.raises(InputError, match="no tokens"):
        next(of.generate([], GREEDY))


@pytest.mark.parametrize("read", [1, len(PROMPT) - 1, len(PROMPT) + 1])
def test_reading_another_number_of_tokens_is_the_runtimes_fault(read: int) -> None:
    class Wrong(ToyRuntime):
        def step(self, feeds: Sequence[Feed]) -> list[Output]:
            return super().step([feed._replace(tokens=[*feed.tokens, 0][:read]) for feed in feeds])

    with pytest.raises(DeviceError, match="the runtime is at fault"):
        run(Session(Wrong(TOKENIZER.vocab_size, piece=len(PROMPT)), TOKENIZER), PROMPT)


def test_prefill_progress() -> None:
    of = session()
    seen: list[tuple[int, int]] = []
    run(of, PROMPT, on_prefill=lambda done, total: seen.append((done, total)))
    total = len(PROMPT)
    assert seen == [(0, total), (8, total), (16, total), (24, total), (total, total)]


def test_times_come_from_the_clock() -> None:
    ticks = count(10.0, 2.0)
    of = Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER, clock=lambda: next(ticks))
    usage = run(of, PROMPT, SamplingParams(max_tokens=4)).usage
    assert (usage.first_token_s, usage.decode_s, usage.tokens_per_s) == (2.0, 6.0, 0.5)


def cancel_after(calls: int) -> Callable[[], bool]:
    left: Iterator[int] = iter(range(calls))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("calls", range(8))
def test_cancelling_anywhere_leaves_the_session_usable(calls: int) -> None:
    of = session()
    whole = run(session(), PROMPT)
    part = run(of, PROMPT, cancelled=cancel_after(calls))
    assert part.finish_reason == "cancelled"
    assert whole.text.startswith(part.text)
    assert toy(of).tokens == list(of.tokens) == [*PROMPT, *whole.token_ids][: len(of.tokens)]
    if calls < 4:  # the prompt has four pieces
        assert len(toy(of).feeds) == calls
        assert part.usage.completion_tokens == 0
    toy(of).feeds.clear()
    again = run(of, PROMPT)
    assert again.text == whole.text
    assert toy(of).feeds[0][0] == min(8 * calls, len(PROMPT) - 1)  # what was read stays read


@pytest.mark.parametrize("consumed", range(1, 5))
def test_closing_the_generator_leaves_the_session_usable(consumed: int) -> None:
    of = session()
    generation = of.generate(PROMPT, GREEDY)
    for _ in range(consumed):
        next(generation)
    generation.close()
    assert toy(of).tokens == list(of.tokens)
    assert run(of, PROMPT).text == run(session(), PROMPT).text


@pytest.mark.parametrize("number", [0, 2, 5])
@pytest.mark.parametrize("moment", ["before_feed", "after_feed"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError])
def test_an_exception_in_a_feed_leaves_the_session_usable(
    number: int, moment: str, error: type[BaseException]
) -> None:
    of = session()

    def fail(feed: int) -> None:
        if feed == number:
            setattr(toy(of), moment, None)
            raise error("now")

    setattr(toy(of), moment, fail)  # after_feed: Ctrl-C just as the runtime is done
    with pytest.raises(error):
        run(of, PROMPT)
    assert run(of, PROMPT).text == run(session(), PROMPT).text
    assert toy(of).tokens == list(of.tokens)


def test_two_answers_at_once_are_refused() -> None:
    of = session()
    first = of.generate(PROMPT, GREEDY)
    next(first)
    with pytest.raises(InputError, match="still answering"):
        next(of.generate(PROMPT, GREEDY))
    assert drain(first)[1].finish_reason == "length"
    assert run(of, PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_log_probabilities_come_with_their_text() -> None:
    of = session(next_token=saying("hello 你."))
    pieces, completion = drain(of.generate(PROMPT, SamplingParams(logprobs=2)))
    assert [entry.token_id for entry in completion.logprobs] == list(completion.token_ids)
    assert sum((piece.logprobs for piece in pieces), ()) == completion.logprobs
    for piece in pieces:
        assert b"".join(entry.data for entry in piece.logprobs).decode() == piece.text
    row = toy(of).logits_after(tuple(PROMPT)).astype(np.float64)
    entry = completion.logprobs[0]
    assert abs(entry.logprob - (row[entry.token_id] - np.log(np.exp(row).sum()))) < 1e-4
    assert entry.top[0].token_id == entry.token_id
    assert len(entry.top) == 2


def test_log_probabilities_of_hidden_text_come_last() -> None:
    stop = SamplingParams(logprobs=0, stop=("llo",))
    pieces, completion = drain(session(next_token=saying("a hello")).generate(PROMPT, stop))
    assert completion.text == "a he"
    assert sum((piece.logprobs for piece in pieces), ()) == completion.logprobs
    assert len(completion.logprobs) == len(completion.token_ids)


def test_logits_that_are_not_numbers_are_the_devices_fault() -> None:
    with pytest.raises(DeviceError, match="not numbers"):
        run(session(nan=True), PROMPT, SamplingParams(temperature=1.0))


def test_reset_and_close() -> None:
    of = session()
    run(of, PROMPT)
    of.reset()
    assert of.tokens == ()
    assert toy(of).position(0) == 0
    assert run(of, PROMPT).usage.cached_tokens == 0
    of.close()
    of.close()
    assert toy(of).closed
