"""Drafts never change an answer, pay where text repeats itself, and end where they do not pay."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bmqwen.generate.drafts import Drafts, EarlierAnswers
from bmqwen.generate.params import Completion, SamplingParams, ToolRule, ToolRules
from bmqwen.generate.session import Session
from support import hermes
from support.hermes import PARIS, WEATHER, ids
from support.toy_runtime import NextToken, ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
CHEAP = {1: 1.0, 4: 1.1, 8: 1.2, 16: 1.4}
TEXT = TOKENIZER.encode("one two three four five six seven eight nine ten. ")
PROMPT = [*TEXT, *TOKENIZER.encode("Again: ")]
# Starts of the text, so that its first tokens are a match of two already.
BEGUN = [*PROMPT, *TEXT[:2]]


def copying(prefix: tuple[int, ...]) -> int | None:
    """The text once more, then whatever comes."""
    done = len(prefix) - len(PROMPT)
    return TEXT[done] if 0 <= done < len(TEXT) else None


def session(next_token: NextToken | None = None, *, drafts: bool = True, agree: bool = True) -> Session:
    runtime = ToyRuntime(TOKENIZER.vocab_size, next_token=next_token, row_costs=CHEAP)
    runtime.rounds_by_rows = not agree
    return Session(runtime, TOKENIZER, drafts=drafts)


def run(session: Session, prompt: list[int], params: SamplingParams, owner: str = "") -> Completion:
    return drain(session.generate(prompt, params, owner=owner))[1]


def steps(session: Session) -> int:
    assert isinstance(session.runtime, ToyRuntime)
    return len(session.runtime.feeds)


def test_text_that_repeats_itself_takes_few_steps() -> None:
    params = SamplingParams(max_tokens=len(TEXT) - 2)
    plain, drafted = session(copying, drafts=False), session(copying)
    expected, found = run(plain, BEGUN, params), run(drafted, BEGUN, params)
    assert found.token_ids == expected.token_ids == tuple(TEXT[2:])
    assert steps(drafted) < 0.4 * steps(plain)
    assert found.usage.accepted_tokens >= 0.6 * len(TEXT)
    assert found.usage.drafted_tokens >= found.usage.accepted_tokens
    # What the cache holds is the prompt and the answer but for its last token, and so is the runtime's.
    assert drafted.tokens == plain.tokens == (*BEGUN, *TEXT[2:-1])
    assert (expected.usage.drafted_tokens, expected.usage.accepted_tokens) == (0, 0)


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.3]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 3]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logit_bias=st.sampled_from([{}, {5: 9.0}]),
    seed=st.integers(0, 3),
    max_tokens=st.integers(1, 60),
    stop=st.sampled_from([(), ("seven",), ("t",)]),
)


@settings(max_examples=30, deadline=None)
@given(PARAMS, st.booleans(), st.booleans())
def test_answers_are_those_without_drafts(params: SamplingParams, copies: bool, agree: bool) -> None:
    plain = session(copying if copies else None, drafts=False)
    drafted = session(copying if copies else None, agree=agree)
    for prompt in (BEGUN, BEGUN, [*BEGUN, *TEXT[2:9]]):
        expected, found = run(plain, prompt, params), run(drafted, prompt, params)
        assert (found.text, found.token_ids, found.finish_reason) == (
            expected.text,
            expected.token_ids,
            expected.finish_reason,
        )
        assert drafted.tokens == plain.tokens


def test_a_call_that_begins_in_a_draft_is_held_to_its_tools() -> None:
    """The logits of the rows behind its first token are there."""
    call, before = ids(PARIS), ids("It is time for this call: ")
    prompt = [*before, *call, *ids(" Again: "), *before[:3]]
    rest = [*before[3:], *call, *hermes.TOKENIZER.stop_ids]

    def saying(prefix: tuple[int, ...]) -> int | None:
        done = len(prefix) - len(prompt)
        return rest[done] if 0 <= done < len(rest) else None

    runtime = ToyRuntime(hermes.TOKENIZER.vocab_size, next_token=saying, row_costs=CHEAP)
    tools = ToolRules((ToolRule("weather", json.dumps(WEATHER["function"]["parameters"])),))
    found = run(Session(runtime, hermes.TOKENIZER), prompt, SamplingParams(tools=tools))
    assert list(found.token_ids) == rest[: len(found.token_ids)]
    assert found.usage.accepted_tokens > len(call)


def test_steps_of_several_rows_decide_no_close_call() -> None:
    class Differing(ToyRuntime):
        """Rows of several favour another token by half a logit; the second best is nearer at every fifth position."""

        def logits_after(self, prefix: tuple[int, ...]) -> NDArray[np.float32]:
            logits = super().logits_after(prefix)
            best = int(logits.argmax())
            logits[(best + 1) % len(logits)] = logits[best] - (0.2 if len(prefix) % 5 == 0 else 3)
            if self.feeds[-1][1] > 1 and len(prefix) > len(BEGUN):
                logits[best] -= 0.5
            return logits

    def differing(drafts: bool) -> Session:
        runtime = Differing(TOKENIZER.vocab_size, next_token=copying, row_costs=CHEAP, piece=1)
        runtime.rounds_by_rows = True
        return Session(runtime, TOKENIZER, drafts=drafts)

    params = SamplingParams(max_tokens=len(TEXT) - 2)
    plain, drafted = differing(False), differing(True)
    assert run(drafted, BEGUN, params).token_ids == run(plain, BEGUN, params).token_ids == tuple(TEXT[2:])
    assert steps(drafted) < steps(plain)


def test_drafts_that_are_wrong_end_within_a_few_steps() -> None:
    def contrary(prefix: tuple[int, ...]) -> int:
        """Two tokens that were there before, then one that never followed them."""
        done = len(prefix) - len(PROMPT)
        return TEXT[done % 3] if done % 3 < 2 else 40 + done

    drafted = session(contrary)
    completion = run(drafted, PROMPT, SamplingParams(max_tokens=90))
    assert completion.usage.drafted_tokens < 30


def test_earlier_answers_are_drafted_for_their_owner_alone() -> None:
    def reciting(prefix: tuple[int, ...]) -> int:
        return 30 + (len(prefix) * 7) % 50

    params = SamplingParams(max_tokens=40)
    one = session(reciting)
    first = run(one, TEXT[:5], params, "a").usage
    again = run(one, TEXT[:5], params, "a").usage
    other = run(one, TEXT[:5], params, "b").usage
    assert again.accepted_tokens > first.accepted_tokens == other.accepted_tokens
    one.reset()
    assert run(one, TEXT[:5], params, "a").usage.accepted_tokens == first.accepted_tokens


def test_owners_are_forgotten_in_turn() -> None:
    earlier = EarlierAnswers(owners=2)
    for owner in ("a", "b", "a", "c"):
        earlier.of(owner).add_text([1, 2, 3])
    assert [len(earlier.of(owner)) for owner in ("a", "c", "b")] == [8, 4, 0]


class Counting:
    """A model that counts upward, at a tenth of the cost."""

    cost = 0.1

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        return [tokens[-1] + place for place in range(1, count + 1)]


@pytest.mark.parametrize(("text", "expected"), [([1, 2, 9, 1, 2, 9, 1], True), ([1, 2, 3], False)])
def test_a_model_stands_in_where_nothing_repeats(text: list[int], expected: bool) -> None:
    drafts = Drafts(text, lambda: CHEAP, model=Counting)
    for token in (2, 9, 1, 2) if expected else (4, 5, 6):
        drafts.propose(15)
        drafts.accept([token])
    proposed = drafts.propose(15)
    assert proposed[:2] == ([9, 1] if expected else [7, 8])


def test_nothing_is_drafted_where_rows_cost_their_number() -> None:
    drafts = Drafts(TEXT * 4, lambda: {rows: float(rows) for rows in range(1, 9)})
    assert [drafts.propose(20) for _ in range(3)] == [[], [], []]
    assert drafts.proposed == 0
