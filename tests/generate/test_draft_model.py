"""A smaller model drafts for a greater one: fewer steps, the same text; pairs that cannot do so are refused."""

import json
from pathlib import Path

import pytest

from bmqwen.engine import Engine, load
from bmqwen.errors import InputError
from bmqwen.generate.draft_model import DraftModel
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from bmqwen.runtime import cpu
from support.talker import SAYS, write_talker
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT = TOKENIZER.encode("once upon a time")
COSTS = {1: 1.0, 4: 1.1, 8: 1.2}
LENGTH = 60
PARAMS = SamplingParams(max_tokens=LENGTH)


def story(prefix: tuple[int, ...]) -> int:
    """A text that repeats nothing for a while."""
    return 30 + len(prefix) * len(prefix) % 211


def hasty(prefix: tuple[int, ...]) -> int:
    """The same, but for every seventh token."""
    return 29 if len(prefix) % 7 == 0 else story(prefix)


def pair(context: int = 4096) -> tuple[Session, ToyRuntime, ToyRuntime]:
    """A session whose answers a smaller model drafts, and both runtimes."""
    large = ToyRuntime(TOKENIZER.vocab_size, next_token=story, row_costs=COSTS)
    small = ToyRuntime(TOKENIZER.vocab_size, context, next_token=hasty)
    return Session(large, TOKENIZER, guesser=DraftModel(small, 0.05, large.vocab_size)), large, small


def answer(session: Session, prompt: list[int]) -> Completion:
    return drain(session.generate(prompt, PARAMS))[1]


def test_a_drafted_answer_takes_fewer_steps_and_is_the_same() -> None:
    session, large, small = pair()
    expected = answer(
        Session(ToyRuntime(TOKENIZER.vocab_size, next_token=story), TOKENIZER, drafts=False), PROMPT
    )
    found = answer(session, PROMPT)
    assert found.token_ids == expected.token_ids
    assert len(large.feeds) < LENGTH / 3
    assert found.usage.drafted_tokens > found.usage.accepted_tokens > LENGTH / 2
    # It reads the prompt once, and what was wrong of a draft is forgotten.
    assert [position for position, _ in small.feeds].count(0) == 1
    assert small.tokens[: len(PROMPT)] == PROMPT
    # The next turn is read from where both differ.
    before = len(small.feeds)
    answer(session, [*PROMPT, *found.token_ids, *PROMPT])
    assert small.feeds[before][0] >= len(PROMPT) + LENGTH - 8


def test_an_answer_goes_on_beyond_the_context_of_the_smaller_model() -> None:
    session, large, small = pair(context=len(PROMPT) + 20)
    found = answer(session, PROMPT)
    assert len(found.token_ids) == LENGTH
    assert found.token_ids == tuple(large.tokens[len(PROMPT) :]) + found.token_ids[-1:]
    assert max(position + count for position, count in small.feeds) <= len(PROMPT) + 20


def test_tokens_that_only_the_smaller_model_has_end_a_draft() -> None:
    small = ToyRuntime(310, next_token=lambda prefix: 40 if len(prefix) < 6 else 303)
    model = DraftModel(small, 0.1, vocab_size=300)
    assert model.guess([1, 2, 3], 8) == [40, 40, 40]


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two real models that say the same, a large one and a small one."""
    folder = tmp_path_factory.mktemp("talkers")
    return write_talker(folder / "large", layers=24), write_talker(folder / "small")


def loaded(model: Path, draft: Path) -> Engine:
    return load(model, "cpu", draft=str(draft), threads=1)


def test_a_loaded_pair_drafts(talkers: tuple[Path, Path]) -> None:
    large, small = talkers
    with loaded(large, small) as engine:
        chat = engine.chat(None, SamplingParams(max_tokens=30))
        assert "".join(chat.stream("hi")) == SAYS
        assert chat.last is not None
        assert chat.last.usage.accepted_tokens >= chat.last.usage.completion_tokens / 2


def test_pairs_that_cannot_draft_are_refused(
    talkers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = talkers
    with pytest.raises(InputError, match="it is not the smaller of the two"):
        loaded(small, large)
    with pytest.raises(InputError, match="it is not the smaller of the two"):
        loaded(small, small)
    foreign = write_talker(tmp_path / "foreign")
    tokenizer = json.loads((foreign / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (foreign / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(InputError, match="foreign cannot draft for large: its vocabulary is another one"):
        loaded(large, foreign)
    monkeypatch.setattr(cpu, "ROW_COSTS", {1: 1.0})
    with pytest.raises(
        InputError, match="large cannot check several drafted tokens in a step: leave --draft out"
    ):
        loaded(large, small)
