"""Several answers in one loop: each is what it is alone, none waits long, and no owner sees another's tokens."""

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmqwen.errors import ContextLengthError, DeviceError, FeedInterruptedError, InputError, SchemaError
from bmqwen.generate.batcher import Batcher
from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.generation import Generation
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.runtime.base import Feed, Output
from bmqwen.runtime.cpu import CHUNK
from bmqwen.runtime.cpu_pace import Pace
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
GREEDY = SamplingParams(max_tokens=9)


def next_token(prefix: tuple[int, ...]) -> int:
    """Depends on all of the prefix, and never ends an answer."""
    return 40 + sum(prefix) % 60


def runtime(sequences: int = 1) -> ToyRuntime:
    return ToyRuntime(TOKENIZER.vocab_size, sequences=sequences, next_token=next_token)


def batcher(sequences: int, budget: int = 0) -> Batcher:
    return Batcher(runtime(sequences), TOKENIZER, saved=ConversationCache(budget))


def toy(of: Batcher) -> ToyRuntime:
    assert isinstance(of.runtime, ToyRuntime)
    return of.runtime


def finish(of: Batcher, generations: list[Generation]) -> None:
    for _ in range(1000):
        if all(generation.over for generation in generations):
            return
        of.step()
    pytest.fail("an answer does not end")


def prompt(number: int, length: int = 30) -> list[int]:
    return Random(number).choices(range(250), k=length)


def alone(tokens: list[int], params: SamplingParams = GREEDY) -> tuple[int, ...]:
    of = Session(runtime(), TOKENIZER)
    return drain(of.generate(tokens, params))[1].token_ids


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_each_answer_is_what_it_is_alone(sequences: int, depth: int, seed: int) -> None:
    """Conversations of several owners that come, are cancelled, dropped and go on at any time, on so many devices."""
    random, of = Random(seed), batcher(sequences, 8 * 200)
    toy(of).depth = depth
    running: list[tuple[Generation, list[int]]] = []
    beginnings = [(owner, prompt(number)) for number in range(3) for owner in "ab"]
    begun = 0
    while begun < 12 or running:
        if begun < 12 and random.random() < 0.3:
            owner, beginning = random.choice(beginnings)
            tokens = beginning + prompt(random.randrange(20), random.randrange(1, 20))
            running.append((of.add(tokens, GREEDY, owner), tokens))
            begun += 1
        of.step()
        for generation, tokens in list(running):
            if random.random() < 0.02:
                generation.cancelled = True
            if random.random() < 0.01:
                of.drop(generation)
                running.remove((generation, tokens))
            elif generation.over:
                running.remove((generation, tokens))
                assert generation.completion is not None
                whole = alone(tokens)
                ids = generation.completion.token_ids
                assert ids == whole[: len(ids)]
                assert ids == whole or generation.cancelled
                if ids == whole and random.random() < 0.5:
                    beginnings.append((generation.owner, [*tokens, *ids]))
    assert max(toy(of).steps) <= sequences


def test_answers_get_a_token_in_every_step_while_prompts_are_read() -> None:
    of = batcher(4)
    writing = [of.add(prompt(number, 5), SamplingParams(max_tokens=400)) for number in range(2)]
    while any(generation.reading for generation in writing):
        of.step()
    long, short = of.add(prompt(8, 300), GREEDY), of.add(prompt(9, 20), GREEDY)
    before = [generation.wanted for generation in writing]
    steps = len(toy(of).steps)
    while short.reading:
        of.step()
        assert all(g.wanted is not w for g, w in zip(writing, before, strict=True))
        before = [generation.wanted for generation in writing]
    # The short one was read first, though it came later: in pieces of 4, beside the answers.
    assert len(toy(of).steps) - steps == 5
    assert long.read == 0
    finish(of, [long, short])


def test_eight_who_begin_together_on_a_processor_wait_neither_long_nor_often() -> None:
    """Simulated with what steps of the demo model took on two threads, in ms."""
    answers = {0: 0.0, 1: 11.3, 2: 12.8, 3: 18.0, 4: 22.2, 5: 26.0, 6: 29.8, 7: 33.9, 8: 37.9}
    of, clock, stalls = batcher(8), 0.0, []
    step = toy(of).step

    def timed(feeds: Sequence[Feed]) -> list[Output]:
        nonlocal clock
        read = sum(len(feed.tokens) for feed in feeds if feed.prompt)
        beside = sum(not feed.prompt for feed in feeds)
        # The end of a prompt is a run of its own.
        apart = any(feed.prompt and not feed.goes_on for feed in feeds)
        took = answers[beside] + 3.05 * read + 3.4 * apart
        if beside and read:
            stalls.append(took)
        clock += took
        return step(feeds)

    def piece(sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        del sequence
        return Pace().rows_beside(count, beside, waiting, joined=True) if beside else min(CHUNK, count)

    toy(of).step, toy(of).piece = timed, piece  # type: ignore[method-assign]
    params, lengths = SamplingParams(max_tokens=96), (20, 120, 60, 400, 30, 200, 80, 800)
    generations = [of.add(prompt(number, length), params) for number, length in enumerate(lengths)]
    first: dict[int, float] = {}
    while not all(generation.over for generation in generations):
        of.step()
        first |= {g.number: clock for g in generations if g.pieces and g.number not in first}
    # No answer waits longer for its next token than two steps of eight take.
    assert max(stalls) <= 2 * answers[8]
    assert clock < 10_000
    assert sorted(first.values())[4] < 1500
    assert max(first.values()) < 9000


def steps_begun(of: Batcher) -> list[tuple[list[int], int]]:
    """Note for each step begun from now on the tokens of its feeds, and how many steps are under way already."""
    begun, step = [], toy(of).step

    def noting(feeds: Sequence[Feed]) -> list[Output]:
        begun.append(([len(feed.tokens) for feed in feeds], len(of._under_way)))
        return step(feeds)

    toy(of).step = noting  # type: ignore[method-assign]
    return begun


def four_in_two_groups() -> tuple[Batcher, list[Generation]]:
    """Four answers that are being written, with two steps under way at once."""
    of = batcher(4)
    toy(of).depth = 2
    generations = [of.add(prompt(number, 5), GREEDY) for number in range(4)]
    while any(generation.reading for generation in generations):
        of.step()
    return of, generations


def test_two_groups_of_answers_have_a_step_under_way_each() -> None:
    of, generations = four_in_two_groups()
    begun = steps_begun(of)
    for _ in range(4):
        of.step()
    assert all(feeds == [1, 1] for feeds, _ in begun)
    assert max(under_way for _, under_way in begun) == 1
    # Too few for two groups: those that are left share a step.
    of.drop(generations[0])
    begun.clear()
    while not all(generation.over for generation in generations[1:]):
        of.step()
    assert ([1, 1, 1], 0) in begun
    tokens = [g.completion.token_ids for g in generations[1:] if g.completion]
    assert tokens == [alone(prompt(number, 5)) for number in (1, 2, 3)]


def test_pieces_of_a_prompt_go_between_the_steps_of_an_answer() -> None:
    of = batcher(2)
    toy(of).depth = 2
    writing = of.add(prompt(1, 5), SamplingParams(max_tokens=40))
    while writing.reading:
        of.step()
    begun = steps_begun(of)
    reading = of.add(prompt(2, 24), GREEDY)
    while reading.reading:
        of.step()
    # No piece is larger than beside the answer, which got a token in every other step.
    assert [feeds for feeds, _ in begun][:6] == [[1, 4], [4], [1, 4], [4], [1, 4], [4]]
    finish(of, [writing, reading])
    assert reading.completion is not None
    assert reading.completion.token_ids == alone(prompt(2, 24))


def test_a_step_that_fails_while_another_is_under_way_changes_nothing() -> None:
    """As an interrupt does; the step under way and the answers go on."""
    of, generations = four_in_two_groups()
    of.step()

    def interrupted(number: int) -> None:
        del number
        toy(of).before_feed = None
        raise FeedInterruptedError("now")

    toy(of).before_feed = interrupted
    with pytest.raises(FeedInterruptedError):
        of.step()
    finish(of, generations)
    tokens = [g.completion.token_ids for g in generations if g.completion]
    assert tokens == [alone(prompt(number, 5)) for number in range(4)]


def test_a_device_that_is_found_to_have_failed_where_results_are_read_fails_the_step() -> None:
    """So that all answers are told why they end, those of other groups as well."""
    of, _ = four_in_two_groups()
    toy(of).depth, failure = 1, DeviceError("the device failed")

    def failing(prefix: tuple[int, ...]) -> int | None:
        del prefix
        raise failure

    toy(of)._next_token = failing
    with pytest.raises(DeviceError, match="the device failed"):
        of.step()


def test_results_are_asked_for_at_the_end_of_a_prompt_and_where_it_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, fed = batcher(2), list[Feed]()
    step = toy(of).step

    def noting(feeds: Sequence[Feed]) -> list[Output]:
        fed.extend(feeds)
        return step(feeds)

    monkeypatch.setattr(toy(of), "step", noting)
    finish(of, [of.add(prompt(1, 30), SamplingParams(max_tokens=2))])
    assert [feed.goes_on for feed in fed] == [True, True, True, False, False]
    fed.clear()
    finish(of, [of.add(prompt(2, 30), SamplingParams(max_tokens=2, echo=True, logprobs=1))])
    assert not any(feed.goes_on for feed in fed)


def test_a_long_prompt_gets_its_turn_however_many_short_ones_come() -> None:
    of = batcher(3)
    long = of.add(prompt(1, 200), GREEDY)
    for number in range(200):
        short = of.add(prompt(number, 12), SamplingParams(max_tokens=1))
        while not short.over and not long.over:
            of.step()
        if long.over:
            return
    pytest.fail("the long prompt was never read")


def test_more_than_there_are_slots_wait_in_their_order() -> None:
    of = batcher(2)
    generations = [of.add(prompt(number), GREEDY) for number in range(5)]
    assert [generation.slot is not None for generation in generations] == [True, True, False, False, False]
    generations[3].cancelled = True
    finish(of, generations)
    assert [g.completion.finish_reason for g in generations if g.completion] == [
        "length",
        "length",
        "length",
        "cancelled",
        "length",
    ]


def test_a_beginning_that_conversations_of_one_owner_share_is_read_once() -> None:
    of, system = batcher(4), prompt(0, 100)
    finish(of, [of.add(system + prompt(1), GREEDY, "me")])
    others = [of.add(system + prompt(number), GREEDY, "me") for number in (2, 3)]
    stranger = of.add(system + prompt(4), GREEDY, "you")
    finish(of, [*others, stranger])
    assert [generation.cached for generation in others] == [100, 100]
    assert stranger.cached == 0
    # The first conversation is still there as a whole.
    again = of.add(system + prompt(1), GREEDY, "me")
    assert again.cached == 129
    finish(of, [again])


def test_an_answer_that_fails_ends_alone() -> None:
    of = batcher(2)
    schema = SamplingParams(max_tokens=9, json_schema='{"type": "nothing that JSON has"}')
    bad, good = of.add(prompt(1), schema), of.add(prompt(2), GREEDY)
    finish(of, [bad, good])
    assert isinstance(bad.error, SchemaError)
    assert good.completion is not None
    assert good.completion.token_ids == alone(prompt(2))


def test_an_interrupt_costs_the_others_nothing() -> None:
    of = batcher(2)
    generations = [of.add(prompt(1), GREEDY), of.add(prompt(2), GREEDY)]

    def interrupt(number: int) -> None:
        if number % 3 == 1:
            toy(of).feeds.append((0, 0))
            raise FeedInterruptedError("now")

    toy(of).before_feed = interrupt
    for _ in range(100):
        with suppress(FeedInterruptedError):
            of.step()
    for generation, number in zip(generations, (1, 2), strict=True):
        assert generation.completion is not None
        assert generation.completion.token_ids == alone(prompt(number))


def test_prompts_that_cannot_be_answered_are_refused() -> None:
    of = Batcher(ToyRuntime(TOKENIZER.vocab_size, 16, sequences=2), TOKENIZER)
    for tokens in ([], [TOKENIZER.vocab_size], [-1]):
        with pytest.raises(InputError):
            of.add(tokens, GREEDY)
    with pytest.raises(ContextLengthError):
        of.add([1] * 16, GREEDY)
    finish(of, [of.add([1] * 15, GREEDY)])


def test_a_short_prompt_goes_first_but_not_twice_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runtime says that it reads it sooner so: the others wait for one step, then get their tokens."""
    of = batcher(4)
    monkeypatch.setattr(toy(of), "reads_apart", lambda _sequence, count, beside: bool(count <= 4 and beside))
    writing = [of.add(prompt(number, 5), SamplingParams(max_tokens=400)) for number in range(2)]
    while any(generation.reading for generation in writing):
        of.step()
    of.step()
    first, second = of.add(prompt(8, 4), GREEDY), of.add(prompt(9, 4), GREEDY)
    steps = len(toy(of).steps)
    of.step()
    of.step()
    assert toy(of).steps[steps:] == [1, 4]
    finish(of, [first, second])
    for generation, number in ((first, 8), (second, 9)):
        assert generation.completion is not None
        assert generation.completion.token_ids == alone(prompt(number, 4))


def test_where_answers_are_to_be_reproducible_only_prompts_are_taken_from_the_cache() -> None:
    of = Batcher(runtime(2), TOKENIZER, saved=ConversationCache(1 << 20), reproducible=True)
    first = of.add(prompt(1), GREEDY)
    finish(of, [first])
    assert first.completion is not None
    assert first.completion.usage.drafted_tokens == 0
    second = of.add([*prompt(1), *first.completion.token_ids, 5], GREEDY)
    assert second.cached == len(prompt(1))
    finish(of, [second])
    others = [of.add(prompt(number), GREEDY) for number in (2, 3)]
    finish(of, others)
    # From host memory, likewise.
    again = of.add([*prompt(1), *first.completion.token_ids, 5, 6], GREEDY)
    assert again.cached == len(prompt(1)) + len(first.completion.token_ids) + 1
