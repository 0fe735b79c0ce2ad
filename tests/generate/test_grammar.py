"""Answers of a model that says anything keep to a schema; schemas that cannot be kept to are named."""

import json
import sys
from typing import Any

import pytest

from bmqwen.errors import MissingDependencyError, SchemaError
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.json_schema import held_schema
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT = TOKENIZER.encode("a question")
# Short enough that chance comes to its end.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "答": {"enum": ["是", "否", "不知道"]},
        "sure": {"type": "boolean"},
        "marks": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 3},
    },
    "required": ["答", "sure", "marks"],
    "additionalProperties": False,
}


def answer(schema: dict[str, Any], seed: int, max_tokens: int = 400) -> Completion:
    params = SamplingParams(
        temperature=1.0, seed=seed, max_tokens=max_tokens, json_schema=held_schema(schema, "response_format")
    )
    session = Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER)
    return drain(session.generate(PROMPT, params))[1]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn_keeps_to_the_schema(seed: int) -> None:
    completion = answer(SCHEMA, seed)
    assert completion.finish_reason == "stop"
    value = json.loads(completion.text)
    assert set(value) == {"答", "sure", "marks"}
    assert value["答"] in SCHEMA["properties"]["答"]["enum"]
    assert isinstance(value["sure"], bool)
    assert 2 <= len(value["marks"]) <= 3
    assert set(value["marks"]) <= {1, 2, 3}


def test_only_the_length_cuts_it() -> None:
    whole = answer(SCHEMA, 0)
    cut = answer(SCHEMA, 0, max_tokens=5)
    assert cut.finish_reason == "length"
    assert whole.text.startswith(cut.text)


def test_greedy_answers_are_held_to_it_too() -> None:
    params = SamplingParams(
        max_tokens=100, json_schema=held_schema({"enum": ["left", "right"]}, "response_format")
    )
    session = Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER)
    completion = drain(session.generate(PROMPT, params))[1]
    assert json.loads(completion.text) in ("left", "right")


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "no such type"}',
        '{"$ref": "#/nowhere"}',
        '{"type": "string", "pattern": "("}',
        '{"minimum": 3, "maximum": 1, "type": "integer"}',
        "[" * 100_000,
    ],
)
def test_schemas_that_cannot_be_kept_to(schema: str) -> None:
    with pytest.raises(SchemaError) as caught:
        GrammarMaker(TOKENIZER).of_schema(schema).allowed(TOKENIZER.vocab_size)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_schema_that_is_nested_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(SchemaError, match="nested too deep"):
        held_schema(deep, "response_format")


def test_the_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[schema\]"):
        GrammarMaker(TOKENIZER).of_schema("{}")
