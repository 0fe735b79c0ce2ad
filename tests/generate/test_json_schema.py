"""Schemas as clients send them, and what answers may then be."""

import json
from typing import Any

import pytest

from bmqwen.errors import SchemaError
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.json_schema import FORMATS, held_schema
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
MAKER = GrammarMaker(TOKENIZER)
END = TOKENIZER.control_tokens["<|im_end|>"]
BOTH = [{"$ref": "#/$defs/X"}, {"$ref": "#/$defs/Y"}]
LISTED = {"type": "object", "properties": {"a": {"type": "integer"}}}
OTHER = {"type": "object", "properties": {"b": {"type": "integer"}}}


def accepts(schema: dict[str, Any], value: str) -> bool:
    """Whether an answer that is held to the schema can be this text."""
    grammar = MAKER.of_schema(held_schema(schema, "response_format"))
    for token in [*TOKENIZER.encode(value), END]:
        if not grammar.allowed(TOKENIZER.vocab_size)[token]:
            return False
        grammar.accept(token)
    return True


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (LISTED, {"a": 1}, True),
        (LISTED, {"a": 1, "b": 2}, False),
        ({**LISTED, "additionalProperties": True}, {"a": 1, "b": 2}, True),
        ({**LISTED, "additionalProperties": {"type": "integer"}}, {"b": 2}, True),
        ({**LISTED, "patternProperties": {"^b": {"type": "integer"}}}, {"b": 2}, True),
        ({"type": "object"}, {"b": 2}, True),
        ({"type": "array", "items": LISTED}, [{"b": 2}], False),
        ({"anyOf": [LISTED, OTHER]}, {"a": 1, "b": 2}, False),
        ({"anyOf": [LISTED, OTHER]}, {"b": 2}, True),
        ({"allOf": [LISTED, OTHER]}, {"a": 1, "b": 2}, True),
        ({"$defs": {"X": LISTED}, "$ref": "#/$defs/X"}, {"b": 2}, False),
        (
            {"$defs": {"X": LISTED, "Y": OTHER}, "allOf": [{"$ref": "#/$defs/X"}, {"$ref": "#/$defs/Y"}]},
            {"a": 1, "b": 2},
            True,
        ),
        # What older pydantic writes for a field with a default.
        (
            {
                "type": "object",
                "$defs": {"X": LISTED},
                "properties": {"x": {"allOf": [{"$ref": "#/$defs/X"}]}},
            },
            {"x": {"b": 2}},
            False,
        ),
        ({"const": {"properties": {"format": "x"}}}, {"properties": {"format": "x"}}, True),
        (
            {"type": "object", "properties": {"format": {"type": "string", "format": "phone"}}},
            {"format": "x"},
            True,
        ),
        ({"type": "string", "format": "date"}, "x", False),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}, [1, 1], True),
        (
            {
                "type": "integer",
                "title": "A",
                "default": 1,
                "examples": [2],
                "deprecated": True,
                "x-other": 3,
            },
            3,
            True,
        ),
    ],
)
def test_what_an_answer_may_be(schema: dict[str, Any], value: Any, expected: bool) -> None:
    assert accepts(schema, json.dumps(value)) is expected


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_known_formats_are_held(name: str) -> None:
    assert not accepts({"type": "string", "format": name}, '"?"')


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"type": "array", "uniqueItems": True},
            'answers cannot be held to "uniqueItems" of',
        ),
        ({"not": {"type": "string"}}, 'answers cannot be held to "not" of a JSON schema'),
        ({"type": "object", "properties": {f"p{i}": {} for i in range(401)}}, "401 optional properties"),
        ({"$ref": "#"}, "the JSON schema cannot be used: "),
        ({"$ref": "https://example.org/x"}, "the JSON schema cannot be used: "),
        (
            {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(6)]} for i in range(12)]},
            "too large",
        ),
    ],
)
def test_what_cannot_be_held_is_named(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        accepts(schema, "{}")
    message = str(caught.value)
    assert words in message
    assert "<state>" not in message
    assert len(message) < 400


def test_a_schema_is_not_changed_for_its_owner() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "phone"}}}
    before = json.dumps(schema)
    held_schema(schema, "response_format")
    assert json.dumps(schema) == before


def test_many_required_properties_are_held() -> None:
    names = [f"p{number}" for number in range(1000)]
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": names,
    }
    assert not accepts(schema, '{"p0": 1, "p2"')
