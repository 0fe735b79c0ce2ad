"""Thoughts, text and tool calls come apart wherever the pieces are cut, and no part of a tag is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.answer_parts import AnswerParts, Part, PartKind

BOTH: tuple[PartKind, ...] = ("thought", "tool_call")
BITS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "th", "ink>", "a", "你", " ", "\n"]
    ),
    max_size=14,
).map("".join)


def split(
    pieces: list[str], kinds: tuple[PartKind, ...] = BOTH, *, thinking: bool = False
) -> list[tuple[PartKind, str]]:
    """The parts of an answer that comes in pieces, each part whole."""
    parts = AnswerParts(kinds, thinking=thinking)
    found = [part for piece in pieces for part in parts.push(piece)] + parts.finish()
    whole: dict[tuple[PartKind, int], str] = {}
    for part in found:
        assert part.text
        key = part.kind, part.call if part.kind != "text" else -sum(kind == "tool_call" for kind, _ in whole)
        whole[key] = whole.get(key, "") + part.text
    return [(kind, text) for (kind, _), text in whole.items()]


@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("Hello <think> you", False, [("text", "Hello <think> you")]),
        ("<think>\nhm\n</think>\n\nHello\n", False, [("thought", "hm"), ("text", "Hello\n")]),
        ("\n<think>\n\n</think>\n\nHello", False, [("text", "Hello")]),
        ("hm </think> Hello", True, [("thought", "hm"), ("text", "Hello")]),
        ("hm </thin", True, [("thought", "hm </thin")]),
        ("<think>a</think>b<think>c</think>", False, [("thought", "a"), ("text", "b<think>c</think>")]),
        ("  Hello ", False, [("text", "  Hello ")]),
        (
            'Let me look.\n<tool_call>\n{"name": "f"}\n</tool_call>\n<tool_call>{}</tool_call>',
            False,
            [("text", "Let me look."), ("tool_call", '{"name": "f"}'), ("tool_call", "{}")],
        ),
        (
            "<think>a<tool_call>b</think><tool_call>c",
            False,
            [("thought", "a<tool_call>b"), ("tool_call", "c")],
        ),
        ("a < b and <tool_", False, [("text", "a < b and <tool_")]),
    ],
)
def test_known_answers(text: str, thinking: bool, expected: list[tuple[PartKind, str]]) -> None:
    assert split([text], thinking=thinking) == expected
    assert split(list(text), thinking=thinking) == expected


@given(BITS, st.booleans(), st.sets(st.sampled_from(BOTH)), st.data())
def test_any_cut_gives_the_same_parts(
    text: str, thinking: bool, kinds: set[PartKind], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    chosen = tuple(sorted(kinds))
    assert split(pieces, chosen, thinking=thinking) == split([text], chosen, thinking=thinking)


def test_what_is_not_asked_for_is_text() -> None:
    text = "<think>a</think><tool_call>b</tool_call>"
    assert split(list(text), ()) == [("text", text)]


def test_text_flows_at_once() -> None:
    parts = AnswerParts(BOTH)
    assert parts.push("Hello") == [Part("text", "Hello")]
    assert parts.push(" <") == []
    assert parts.push("b") == [Part("text", " <b")]
