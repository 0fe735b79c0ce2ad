"""Several conversations on one runtime: each costs its new tokens, within a budget, and no owner sees another's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.conversation_cache import FEWEST, ConversationCache, PrefixStore
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
GREEDY = SamplingParams(max_tokens=6)
A, B, C = ([seed + place % 5 for place in range(40)] for seed in (10, 20, 30))
# The toy runtime saves eight bytes a token.
ROOMY = 1 << 20


def session(budget: int) -> Session:
    return Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER, saved=ConversationCache(budget))


def ask(of: Session, prompt: list[int], owner: str = "") -> Completion:
    return drain(of.generate(prompt, GREEDY, owner=owner))[1]


def next_turn(prompt: list[int], answer: Completion) -> list[int]:
    return [*prompt, *answer.token_ids, 1, 2, 3]


def test_conversations_in_turn_cost_their_new_tokens() -> None:
    of, prompts = session(ROOMY), [A, B, C]
    for _ in range(3):
        answers = [ask(of, prompt) for prompt in prompts]
        fresh = [ask(session(ROOMY), prompt) for prompt in prompts]
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in fresh]
        prompts = [next_turn(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for prompt in prompts:
        assert ask(of, prompt).usage.cached_tokens >= len(prompt) - 3 - 1 - 1
    assert of.saved.state.restored >= 6


def test_an_owner_never_gets_what_another_cached() -> None:
    of = session(ROOMY)
    assert ask(of, A, "x").usage.cached_tokens == 0
    # In the runtime at this moment, and later put away.
    assert ask(of, A, "y").usage.cached_tokens == 0
    assert ask(of, B, "y").usage.cached_tokens == 0
    assert ask(of, A, "z").usage.cached_tokens == 0
    for owner in ("x", "y", "z"):
        assert ask(of, A, owner).usage.cached_tokens == len(A) - 1


@pytest.mark.parametrize("budget", [0, 8 * 50, 8 * 100])
def test_the_budget_holds(budget: int) -> None:
    of = session(budget)
    for prompt in (A, B, C, A, C, B):
        ask(of, prompt)
        assert of.saved.state.nbytes <= budget
    assert of.saved.state.conversations == budget // (8 * 45)


def test_short_ones_are_not_worth_keeping() -> None:
    of = session(ROOMY)
    ask(of, A[: FEWEST - 7])
    ask(of, B)
    assert of.saved.state.conversations == 0


@given(
    budget=st.integers(0, 30),
    puts=st.lists(
        st.tuples(
            st.sampled_from("xy"), st.lists(st.integers(0, 1), min_size=1, max_size=6), st.integers(0, 12)
        ),
        max_size=25,
    ),
    wanted=st.lists(st.integers(0, 1), max_size=6),
)
def test_what_is_kept_is_within_the_budget_and_found(
    budget: int, puts: list[tuple[str, list[int], int]], wanted: list[int]
) -> None:
    store: PrefixStore[Any] = PrefixStore(budget)
    for owner, tokens, weight in puts:
        store.put(owner, tokens, (owner, tokens), weight)
        assert store.weight <= budget
        # What was kept last is there.
        assert store.covers(owner, tokens) or weight > budget
    for owner in "xy":
        entry, shared = store.find(owner, wanted)
        if entry is None:
            assert shared == 0
            continue
        whose, tokens = entry.kept
        assert whose == owner
        assert tokens[:shared] == wanted[:shared]
        assert shared in (len(tokens), len(wanted)) or tokens[shared] != wanted[shared]


def test_the_one_used_longest_ago_makes_room() -> None:
    store: PrefixStore[str] = PrefixStore(3)
    for name, tokens in (("a", [1]), ("b", [2]), ("c", [3])):
        store.put("", tokens, name, 1)
    first, _ = store.find("", [1])
    assert first is not None
    store.touch(first)
    store.put("", [4], "d", 1)
    assert [store.find("", [token])[1] for token in (1, 2, 3, 4)] == [1, 0, 1, 1]
    # A longer one takes the place of its own beginning.
    store.put("", [1, 1], "aa", 1)
    assert len(store) == 3
    assert store.find("", [1])[0] is not first
