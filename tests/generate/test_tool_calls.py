"""Calls come out of answers in all their forms, wherever the pieces are cut; what is no call stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.answer_parts import Part
from bmqwen.generate.tool_calls import AnswerReader, CallArguments, CallStart

TOOLS = ("add", "天气")
SCHEMAS = {
    "add": json.dumps(
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "half": {"type": "number"},
                "on": {"$ref": "#/$defs/Switch"},
                "any": {},
                "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "$defs": {"Switch": {"type": "boolean"}},
        }
    )
}
CALL = '{"name": "add", "arguments": {"a": "}", "b": [1, {"c": "\\"{"}]}}'
ARGUMENTS = '{"a": "}", "b": [1, {"c": "\\"{"}]}'
TAGGED = f"<tool_call>\n{CALL}\n</tool_call>"
BITS = st.lists(
    st.sampled_from(
        [
            CALL,
            TAGGED,
            *("<tool_call>", "</tool_call>", "<think>", "</think>", "```json", "```", "\n", " ", "{"),
            '{"name": "add"',
            '"',
            ', "arguments": ',
            "{}",
            "}",
            "a",
            "天气",
            '{"name": "天气"}',
            "`",
            "\\",
            "<tool_call>\n<function=add>\n",
            "<parameter=text>\n",
            "<parameter=count>",
            "</parameter>\n",
            "12",
            "</function>",
        ]
    ),
    max_size=10,
).map("".join)


def read(
    pieces: list[str], *, thoughts: bool = True, tools: tuple[str, ...] = TOOLS
) -> list[tuple[str, str]]:
    """The parts of an answer, each whole: ("text", ...), ("thought", ...) or (name, arguments)."""
    reader = AnswerReader({name: SCHEMAS.get(name, "{}") for name in tools}, thoughts=thoughts)
    found: list[tuple[str, str]] = []
    last: object = None
    for event in [event for piece in pieces for event in reader.push(piece)] + reader.finish():
        if isinstance(event, CallStart):
            found.append((event.name, ""))
            assert event.index == sum(name in TOOLS for name, _ in found) - 1
            last = event.index
        else:
            key = event.index if isinstance(event, CallArguments) else event.kind
            if key == last:
                found[-1] = (found[-1][0], found[-1][1] + event.text)
            else:
                assert isinstance(event, Part)
                found.append((event.kind, event.text))
            last = key
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TAGGED, [("add", ARGUMENTS)]),
        (f"{TAGGED}\n{TAGGED}\n", [("add", ARGUMENTS), ("add", ARGUMENTS)]),
        (f"Let me see.\n{TAGGED}", [("text", "Let me see."), ("add", ARGUMENTS)]),
        (f"<think>\nhm {CALL}\n</think>\n\n{TAGGED}", [("thought", f"hm {CALL}"), ("add", ARGUMENTS)]),
        ('<tool_call>{"name": "天气"}</tool_call>', [("天气", "{}")]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', [("add", '{"a": 1}')]),
        ('<tool_call>{"name": "add", "arguments": "{}"}</tool_call>', [("add", "{}")]),
        ('<tool_call>{"name": "add", "arguments": {"a": 1', [("add", '{"a": 1')]),
        ('<tool_call>{"name": "ad', [("text", '<tool_call>\n{"name": "ad')]),
        (
            '<tool_call>{"name": "joke", "arguments": {}}</tool_call>',
            [("text", '<tool_call>\n{"name": "joke", "arguments": {}}\n</tool_call>')],
        ),
        (f"```json\n{CALL}\n```", [("add", ARGUMENTS)]),
        (f"Sure:\n\n```\n{CALL}\n```\n", [("text", "Sure:"), ("add", ARGUMENTS)]),
        (CALL, [("add", ARGUMENTS)]),
        (f"\n{CALL}\n{CALL}", [("add", ARGUMENTS), ("add", ARGUMENTS)]),
        ('{\n  "name": "add",\n  "arguments": {\n    "a": 1\n  }\n}', [("add", '{\n    "a": 1\n  }')]),
        (f"The call is {CALL}", [("text", f"The call is {CALL}")]),
        (f"The call:\n{CALL}", [("text", f"The call:\n{CALL}")]),
        ('{"name": "joke", "arguments": {}}', [("text", '{"name": "joke", "arguments": {}}')]),
        ("```json\n{}\n```", [("text", "```json\n{}\n```")]),
        ("Hello \n", [("text", "Hello \n")]),
    ],
)
def test_known_answers(text: str, expected: list[tuple[str, str]]) -> None:
    assert read([text]) == expected
    assert read(list(text)) == expected


@given(BITS, st.booleans(), st.data())
def test_any_cut_gives_the_same_parts(text: str, thoughts: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces, thoughts=thoughts) == read([text], thoughts=thoughts)


def xml(*arguments: tuple[str, str]) -> str:
    """A call in the form of Qwen3-Coder's template."""
    parts = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in arguments)
    return f"<tool_call>\n<function=add>\n{parts}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (xml(), {}),
        (xml(("text", 'two\n"lines"\n')), {"text": 'two\n"lines"\n'}),
        (xml(("text", "")), {"text": ""}),
        (xml(("text", "12"), ("count", "12"), ("half", "1")), {"text": "12", "count": 12, "half": 1}),
        (xml(("on", "True"), ("any", "[1, 2]")), {"on": True, "any": [1, 2]}),
        (xml(("any", "plain"), ("maybe", "null")), {"any": "plain", "maybe": None}),
        (xml(("maybe", "12"), ("count", "many")), {"maybe": "12", "count": "many"}),
        (xml(("count", "1e999"), ("half", "NaN")), {"count": "1e999", "half": "NaN"}),
        (
            "<tool_call><function=add><parameter=text>a</par</parameter></function></tool_call>",
            {"text": "a</par"},
        ),
        (
            xml(("text", "<a>1</parameter>\nrest</parameter> <b"), ("count", "1")),
            {"text": "<a>1</parameter>\nrest</parameter> <b", "count": 1},
        ),
    ],
)
def test_calls_in_xml(text: str, arguments: dict[str, object]) -> None:
    for pieces in ([text], list(text)):
        ((name, found),) = read(pieces)
        assert (name, json.loads(found)) == ("add", arguments)
    # Cut anywhere, what came is the beginning of the same arguments.
    for end in range(text.index("=add>") + 5, len(text)):
        assert found.startswith(read([text[:end]])[0][1])


def test_xml_that_is_no_call_is_text() -> None:
    text = "<tool_call>\n<function=joke>\n</function>\n</tool_call>"
    assert read(list(text)) == [("text", text)]


def test_arguments_can_always_be_sent() -> None:
    half = '<tool_call>{"arguments": {"a": "\\ud800"}, "name": "add"}</tool_call>'
    for text in (half, xml(("any", '{"a": "\\ud800"}'))):
        ((_, found),) = read([text])
        found.encode()
        assert json.loads(found)


def test_without_tools_all_is_text() -> None:
    assert read(list(TAGGED), tools=()) == [("text", TAGGED)]
    assert read([CALL], tools=()) == [("text", CALL)]


def test_arguments_flow_as_they_come() -> None:
    reader = AnswerReader(dict.fromkeys(TOOLS, "{}"), new_id=lambda: "call_1")
    assert reader.push('<tool_call>\n{"name": "add", "arguments": {"a"') == [
        CallStart(0, "call_1", "add"),
        CallArguments(0, '{"a"'),
    ]
    assert reader.push(": 1") == [CallArguments(0, ": 1")]
    assert reader.push("}}\n</tool_call>") == [CallArguments(0, "}")]
    assert reader.finish() == []
    assert json.loads('{"a": 1}') == {"a": 1}
