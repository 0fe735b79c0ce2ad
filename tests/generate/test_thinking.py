"""Thoughts come apart from the answer, cost their budget at most, and never come back in a prompt."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken

from bmqwen.errors import InputError
from bmqwen.generate.conversation import Conversation
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.template import Message
from bmqwen.generate.text_stream import AnswerText
from bmqwen.generate.tokenizer import Tokenizer
from support.toy_runtime import ToyRuntime, drain, script
from support.toy_tokenizer import CHATML, toy_library_tokenizer, toy_template

# As Qwen3's: nothing of thoughts in the history, and closed ones for a model that is not to think.
SWITCHED = CHATML.replace(
    "assistant\\n' }}{% endif %}",
    "assistant\\n' }}{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
)
# As DeepSeek-R1's: each answer begins with thoughts.
OPENED = CHATML.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{# </think> #}{% endif %}")


def make_tokenizer() -> Tokenizer:
    inner = toy_library_tokenizer()
    inner.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return Tokenizer(inner)


TOKENIZER = make_tokenizer()
END, START, THINK, END_THINK = (
    TOKENIZER.control_tokens[name] for name in ("<|im_end|>", "<|im_start|>", "<think>", "</think>")
)
OPENING = [START, *TOKENIZER.encode("assistant\n")]


def ids(text: str) -> list[int]:
    """The tokens of what a model says, tags included."""
    parts = TOKENIZER.split_control(text)
    return [
        token for part in parts for token in ([part] if isinstance(part, int) else TOKENIZER.encode(part))
    ]


def talk(
    *answers: str,
    source: str = SWITCHED,
    opening: Sequence[int] = OPENING,
    params: SamplingParams | None = None,
) -> Conversation:
    """A conversation whose model says `answers` in turn."""
    runtime = ToyRuntime(
        TOKENIZER.vocab_size, next_token=script([[*ids(answer), END] for answer in answers], opening)
    )
    params = params or SamplingParams(max_tokens=80)
    return Conversation(Session(runtime, TOKENIZER), toy_template(source), params=params)


def ask(conversation: Conversation, text: str = "hi") -> tuple[list[Piece], Completion]:
    return drain(conversation.reply(text))


def test_thoughts_are_apart_from_the_answer() -> None:
    conversation = talk("<think>\nhello w\n</think>\n\nhello")
    pieces, completion = ask(conversation)
    assert (
        "".join(piece.text for piece in pieces if piece.kind == "thought") == "hello w" == completion.thoughts
    )
    assert "".join(piece.text for piece in pieces if piece.kind == "text") == "hello" == completion.text
    assert TOKENIZER.decode(completion.answer_ids) == "hello"
    assert completion.usage.reasoning_tokens == len(completion.token_ids) - len(ids("hello"))
    assert completion.usage.completion_tokens == completion.usage.reasoning_tokens + len(ids("hello")) + 1


def test_thoughts_that_the_template_opened() -> None:
    opening = [*OPENING, *ids("<think>\n")]
    _, completion = ask(talk("hm\n</think>\n\nhello", source=OPENED, opening=opening))
    assert (completion.thoughts, completion.text) == ("hm", "hello")


@pytest.mark.parametrize(
    ("source", "variables", "thoughts", "written"),
    [
        (OPENED, {}, "hm", "<think>\nhm\n</think>\n\nhello"),
        (OPENED, {}, "", "<think>\n\n</think>\n\nhello"),
        (SWITCHED, {}, "hm", "<think>\nhm\n</think>\n\nhello"),
        (SWITCHED, {}, "", "hello"),
        (SWITCHED, {"enable_thinking": False}, "hm", "<think>\n\n</think>\n\nhello"),
        (CHATML, {}, "", "hello"),
    ],
)
def test_an_answer_goes_on_behind_its_thoughts(
    source: str, variables: dict[str, bool], thoughts: str, written: str
) -> None:
    """Each tag is there once, whoever wrote it; and the tokens are those that the model had read and written."""
    template = toy_template(source)
    prompt = template.encode([Message("user", "hi")], TOKENIZER, variables=variables)
    begun = template.begun(Message("assistant", "hello", thoughts=thoughts), prompt, TOKENIZER)
    shown = b"".join(map(TOKENIZER.token_bytes, prompt + begun)).decode()
    assert shown.endswith(f"<|im_start|>assistant\n{written}")
    if thoughts and not variables:
        said = ids(f"{'' if source == OPENED else '<think>' + chr(10)}hm\n</think>\n\nhello")
        assert begun == said
    kept = template.begun(Message("assistant", "hello", ids=(7, 8), thoughts=thoughts), prompt, TOKENIZER)
    assert kept[-2:] == [7, 8]
    # What looks like a tag in the text is text.
    typed = template.begun(Message("assistant", "</think>", thoughts=thoughts), prompt, TOKENIZER)
    assert typed.count(END_THINK) == begun.count(END_THINK)


def test_thoughts_that_have_begun_go_on() -> None:
    begun = Message("assistant", "", thoughts="hm")
    for source, said in ((OPENED, "hm"), (SWITCHED, "<think>\nhm")):
        template = toy_template(source)
        prompt = template.encode([Message("user", "hi")], TOKENIZER)
        assert template.begun(begun, prompt, TOKENIZER) == ids(said)


def test_empty_thoughts_are_none() -> None:
    pieces, completion = ask(talk("<think>\n\n</think>\n\nhello"))
    assert [piece.kind for piece in pieces] == ["text"] * len(pieces)
    assert (completion.thoughts, completion.text) == ("", "hello")


def test_a_model_without_thoughts_may_speak_of_their_tags() -> None:
    _, completion = ask(talk("<think>hm</think>hello", source=CHATML))
    assert completion.text == "<think>hm</think>hello"


def test_log_probabilities_are_those_of_the_answer() -> None:
    conversation = talk("<think>hm</think>\n\nhello", params=SamplingParams(logprobs=0, max_tokens=80))
    pieces, completion = ask(conversation)
    noted = [item for piece in pieces for item in piece.logprobs]
    assert noted == list(completion.logprobs)
    assert [item.text for item in noted if item.text] == ["hello"]


def test_a_stop_string_does_not_end_thoughts() -> None:
    _, completion = ask(
        talk("<think>a w b</think>hello w a", params=SamplingParams(stop=(" w",), max_tokens=80))
    )
    assert (completion.thoughts, completion.text) == ("a w b", "hello")


def test_a_budget_ends_thoughts() -> None:
    def next_token(prefix: tuple[int, ...]) -> int | None:
        if prefix[-len(OPENING) :] == tuple(OPENING):
            return THINK
        # It would think on and on.
        return ids("a")[0] if END_THINK not in prefix else END

    params = SamplingParams(thinking_budget=6, max_tokens=40)
    session = Session(ToyRuntime(TOKENIZER.vocab_size, next_token=next_token), TOKENIZER)
    conversation = Conversation(session, toy_template(SWITCHED), params=params)
    _, completion = ask(conversation)
    assert completion.finish_reason == "stop"
    assert completion.thoughts == "aaaaa"  # six tokens with the tag
    assert completion.token_ids == (THINK, *ids("aaaaa\n</think>\n\n"))
    assert completion.usage.reasoning_tokens == len(completion.token_ids)


def test_a_schema_holds_from_the_end_of_the_thoughts_on() -> None:
    pytest.importorskip("llguidance")
    conversation = talk(
        '<think>a</think>{"a":1}', params=SamplingParams(json_schema='{"type": "object"}', max_tokens=60)
    )
    _, completion = ask(conversation)
    assert completion.thoughts == "a"
    assert completion.text == '{"a":1}'


def test_the_next_turn_sees_answers_only(tmp_path: Path) -> None:
    conversation = talk("<think>hm</think>\n\nhello", "<think>a</think>\n\nab")
    ask(conversation)
    _, second = ask(conversation, "and")
    assert [(turn.thoughts, turn.answer) for turn in conversation.turns] == [("hm", "hello"), ("a", "ab")]
    prompt = TOKENIZER.decode(conversation.session.tokens)
    assert "hm" not in prompt
    assert second.text == "ab"
    conversation.save(tmp_path / "saved.json")
    again = talk()
    again.load(tmp_path / "saved.json")
    assert [(turn.user, turn.answer, turn.thoughts) for turn in again.turns] == [
        ("hi", "hello", "hm"),
        ("and", "ab", "a"),
    ]


def test_thinking_is_turned_off_by_the_template() -> None:
    opening = [*OPENING, *ids("<think>\n\n</think>\n\n")]
    off = SamplingParams(enable_thinking=False, max_tokens=80)
    _, completion = ask(talk("<think>hello", opening=opening, params=off))
    assert completion.text == "<think>hello"  # once closed, a tag is text


def test_a_template_without_the_switch_says_so() -> None:
    conversation = talk("hello", source=CHATML, params=SamplingParams(enable_thinking=True))
    with pytest.raises(InputError, match="cannot turn thinking on or off"):
        ask(conversation)


@pytest.mark.parametrize(("typed", "value"), [("on", True), ("False", False)])
def test_a_switch_is_typed(typed: str, value: bool) -> None:
    from bmqwen.cli.repl.commands import change_setting

    params, line = change_setting(SamplingParams(), f"enable_thinking {typed}", SamplingParams())
    assert params.enable_thinking is value
    assert line == f"enable_thinking is now {'on' if value else 'off'}"


class Unread(list[Piece]):
    """Pieces that must not be gone through."""

    def __iter__(self) -> Iterator[Piece]:
        raise AssertionError("all that was shown was looked at for one more token")


@pytest.mark.parametrize("text", ["a < b", "<think>\nWhy?\n</think>\n\nSo."])
def test_a_token_costs_alike_however_long_its_answer_is(text: str) -> None:
    answer = AnswerText(TOKENIZER, SamplingParams(thoughts=True), pieces=Unread())
    shown = [piece for token in ids(text) for piece in answer.push(token)]
    assert "".join(piece.text for piece in shown if piece.kind == "text") == text.split("</think>\n\n")[-1]
    # Those of the thoughts, their tags and the blanks behind them.
    assert answer.thought_tokens == (len(ids(text)) - len(ids("So.")) if "</think>" in text else 0)
