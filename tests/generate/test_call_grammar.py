"""Calls keep to their tools' schemas, from where they begin."""

import json
from contextlib import suppress

import pytest

from bmqwen.errors import SchemaError
from bmqwen.generate.call_grammar import answer_grammar
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.params import SamplingParams, ToolRule, ToolRules
from support.hermes import TOKENIZER, ids

MAKER = GrammarMaker(TOKENIZER)
WEATHER = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "maxLength": 5}},
}
TOOLS = (ToolRule("weather", json.dumps(WEATHER)), ToolRule("天气", '{"type": "object"}'))
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'
OTHER = '{"name": "天气", "arguments": {"a": 1}}'


def follow(text: str, params: SamplingParams) -> tuple[str, bool]:
    """As much of an answer as is allowed, and whether it may end there."""
    grammar = answer_grammar(params, MAKER)
    assert grammar is not None
    taken: list[int] = []
    for token in ids(text):
        if grammar.holds and not grammar.allowed(TOKENIZER.vocab_size)[token]:
            return TOKENIZER.decode(taken), False
        grammar.accept(token)
        taken.append(token)
    may_end = not grammar.holds or any(grammar.allowed(TOKENIZER.vocab_size)[list(TOKENIZER.stop_ids)])
    return TOKENIZER.decode(taken), may_end


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (tagged(PARIS), None),
        (f"Let me see.\n{tagged(PARIS, OTHER)}", None),
        (f"```json\n{PARIS}\n```\n```json\n{OTHER}\n```", None),
        (f"Sure:\n```\n{PARIS}```", None),
        ('{\n  "name": "天气",\n  "arguments": {}\n}\n' + PARIS, None),
        ("Any text { with ``` in it.", None),
        ('{"name": "joke", "arguments": {}}', None),
        (tagged(PARIS) + "\nDone.", tagged(PARIS) + "\n"),
        ('<tool_call>\n{"name": "joke"', '<tool_call>\n{"name": "'),
        (
            tagged(PARIS.replace("Paris", "Berlin")),
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Berli',
        ),
        (
            '```json\n{"name": "weather", "args": {}}',
            '```json\n{"name": "weather", "arg',
        ),
        ('{"name": "weather", "arguments": {}}', '{"name": "weather", "arguments": {'),
    ],
)
def test_a_free_answer_is_held_once_a_call_begins(text: str, allowed: str | None) -> None:
    params = SamplingParams(tools=ToolRules(TOOLS))
    assert follow(text, params) == ((text, True) if allowed is None else (allowed, False))


def test_a_required_call_is_held_from_the_first_token() -> None:
    params = SamplingParams(tools=ToolRules(TOOLS, required=True))
    assert follow("Hello", params) == ("", False)
    assert follow(tagged(PARIS, OTHER), params) == (tagged(PARIS, OTHER), True)
    assert follow(tagged(PARIS)[:-3], params)[1] is False


def test_one_call_only() -> None:
    for required in (True, False):
        params = SamplingParams(tools=ToolRules(TOOLS, required=required, parallel=False))
        assert follow(tagged(PARIS, PARIS), params) == (tagged(PARIS), False)


def test_a_call_or_json_of_a_schema() -> None:
    params = SamplingParams(tools=ToolRules(TOOLS), json_schema='{"type": "integer"}')
    assert follow(tagged(PARIS), params) == (tagged(PARIS), True)
    assert follow("12", params) == ("12", True)
    assert follow("a", params) == ("", False)


def test_schemas_that_cannot_be_held() -> None:
    odd = json.dumps({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    params = SamplingParams(tools=ToolRules((ToolRule("f", odd),), required=True))
    assert follow(tagged('{"name": "f", "arguments": {"a": [1]}}'), params)[1]
    with pytest.raises(SchemaError, match="uniqueItems") as caught:
        answer_grammar(SamplingParams(tools=ToolRules((ToolRule("f", odd, strict=True),))), MAKER)
    assert caught.value.param == "tools"


XML_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "code": {"type": "string", "maxLength": 2},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def xml(name: str, **arguments: str) -> str:
    parts = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{parts}</function>\n</tool_call>"


def xml_params(
    schema: object = XML_SCHEMA, *, strict: bool = False, required: bool = False
) -> SamplingParams:
    rule = ToolRule("weather", json.dumps(schema), strict)
    return SamplingParams(tools=ToolRules((rule, TOOLS[1]), required=required, xml=True))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (xml("weather", city="Paris\n<b>"), None),
        (xml("weather", city="Paris", days="3", unit="C"), None),
        (xml("天气", anything="at all", more="3"), None),
        (f"I see.\n{xml('weather', city='a')}\n{xml('weather', city='b')}", None),
        (xml("weather", days="3"), "<tool_call>\n<function=weather>\n<parameter="),
        (
            xml("weather", city="a", days="three"),
            xml("weather", city="a", days="three").partition("three")[0],
        ),
        (xml("joke"), "<tool_call>\n<function="),
    ],
)
def test_calls_in_xml_keep_to_the_schema(text: str, allowed: str | None) -> None:
    assert follow(text, xml_params()) == ((text, True) if allowed is None else (allowed, False))


def test_values_in_xml() -> None:
    for fields in ({"unit": "K"}, {"code": "abc"}):
        text = xml("weather", city="a", **fields)
        assert not follow(text, xml_params(required=True))[1]
    assert follow(xml("weather", city="a", unit="F", code="ab"), xml_params(required=True))[1]


def test_odd_schemas_of_calls_in_xml() -> None:
    loop = {"$ref": "#/properties/a"}
    several: list[object] = [
        [],
        True,
        {"a": True},
        {"a": None},
        {"a": loop},
        {"a": {"enum": ["x", 1, "\ud800"]}},
    ]
    for properties in several:
        odd = {"type": "object", "properties": properties, "required": "a", "minLength": []}
        with suppress(SchemaError):
            answer_grammar(xml_params(odd), MAKER)


def test_what_calls_in_xml_cannot_be_held_to() -> None:
    for schema, words in (
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a$"}}}, "pattern"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "minProperties"),
        ({"type": "object", "properties": {"a>": {"type": "string"}}}, "a>"),
    ):
        with pytest.raises(SchemaError, match=words) as caught:
            answer_grammar(xml_params(schema, strict=True), MAKER)
        assert caught.value.param == "tools"
