"""Calls of tools that keep to their schemas: from an answer's first token, or from where a call begins.

Calls have Hermes' form, which the templates of Qwen2.5 and Qwen3 ask for: `{"name": ..., "arguments": {...}}` between
<tool_call> and </tool_call>. Coder models write the same object in a fence for JSON, or as all of their answer. The
templates of Qwen3-Coder and Qwen3.5 ask for XML between these tags.
"""

import json
import re

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import SchemaError
from bmqwen.generate.answer_parts import TAGS
from bmqwen.generate.grammar import Grammar, GrammarMaker, guided
from bmqwen.generate.params import SamplingParams, ToolRule, ToolRules
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.generate.xml_calls import xml_tool

_OPEN, _CLOSE = TAGS["tool_call"]


class CallGrammar:
    """Leaves an answer free until it begins a call, and holds it to its tools' schemas from there.

    Attributes:
        holds: whether the answer is held now.
    """

    def __init__(self, rules: ToolRules, maker: GrammarMaker) -> None:
        """Make the grammar of a call. Raises SchemaError for a schema that answers cannot be held to."""
        self._rules, self._maker = rules, maker
        self._tokenizer = maker.tokenizer
        self._grammar = maker.of_lark(tagged_calls(rules, maker.tokenizer), "tools")
        names = b"|".join(re.escape(_json(tool.name).encode()) for tool in rules.tools)
        self._call = re.compile(
            rb'(?:(?:\A|\n)[ \n]*(?P<fence>```(?:json)?)[ \n]*|\A[ \n]*)\{[ \n]*"name"[ \n]*:[ \n]*(?P<name>'
            + names
            + rb")"
        )
        self.holds = False
        self._ids: list[int] = []
        self._ends: list[int] = []  # where the tokens' bytes end
        self._shown = bytearray()

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Return which of `size` tokens may come next. Raises as `Grammar.allowed` does."""
        return self._grammar.allowed(size)

    def accept(self, token_id: int) -> None:
        """Take the answer's next token after its thoughts. Raises as `Grammar.accept` does."""
        if self.holds:
            self._grammar.accept(token_id)
            return
        before = len(self._shown)
        self._shown += self._tokenizer.shown_bytes(token_id)
        self._ids.append(token_id)
        self._ends.append(len(self._shown))
        if token_id == self._tokenizer.control_tokens.get(_OPEN):
            self._grammar.accept(token_id)
            self.holds = True
        elif (
            not self._rules.xml and b'"' in self._shown[before:] and (found := self._call.search(self._shown))
        ):
            self._hold_from(found)

    def _hold_from(self, found: re.Match[bytes]) -> None:
        """Hold an object that names a tool, unless what the newest token has after the name makes it none."""
        # A grammar takes whole tokens: it begins with the one in which the object begins.
        first = next(place for place, end in enumerate(self._ends) if end > found.start())
        start = self._ends[first - 1] if first else 0
        begun = self._shown[start : found.end()].decode("utf-8", "replace")
        text = bare_calls(self._rules, json.loads(found["name"]), begun, fenced=found["fence"] is not None)
        grammar = self._maker.of_lark(text, "tools")
        if grammar.follow(self._ids[first:]):
            self._grammar, self.holds = grammar, True


def answer_grammar(params: SamplingParams, maker: GrammarMaker) -> Grammar | CallGrammar | None:
    """Return what an answer is to be held to; None where it is free.

    Raises as `GrammarMaker` does; a SchemaError names the tool.
    """
    rules = params.tools
    if rules is None:
        return None if params.json_schema is None else maker.of_schema(params.json_schema)
    schema = None if rules.required else params.json_schema
    try:
        if rules.required or schema is not None:
            return maker.of_lark(tagged_calls(rules, maker.tokenizer, schema), "tools")
        return CallGrammar(rules, maker)
    except SchemaError as error:
        for tool in rules.tools:
            if fault := _fault(tool, maker, xml=rules.xml):
                raise SchemaError(f"of the tool {tool.name!r} {fault}", "tools") from error
        raise


def _fault(tool: ToolRule, maker: GrammarMaker, *, xml: bool) -> SchemaError | None:
    try:
        maker.of_lark(tagged_calls(ToolRules((tool,), xml=xml), maker.tokenizer), "tools")
    except SchemaError as error:
        return error
    return None


def tagged_calls(rules: ToolRules, tokenizer: Tokenizer, schema: str | None = None) -> str:
    """Return a grammar, in Lark's language, of calls, or of JSON of a schema, where there is one.

    The tags are control tokens where the tokenizer has them.
    """
    tags = [tag if tag in tokenizer.control_tokens else _json(tag) for tag in (_OPEN, _CLOSE)]
    call = f'{tags[0]} "\\n" tool "\\n" {tags[1]}'
    lines = [
        f"start: {call}" + (f' ("\\n" {call})*' if rules.parallel else ""),
        *(
            _xml_tools(rules)
            if rules.xml
            else _tools(rules, '"{{\\"name\\": {name}, \\"arguments\\": " {arguments} "}}"')
        ),
    ]
    if schema is not None:
        lines[0] += " | answer"
        lines.append(f"answer: %json {guided(json.loads(schema), lenient=False)}")
    return "\n".join(lines)


def bare_calls(rules: ToolRules, name: str, begun: str, *, fenced: bool) -> str:
    """Return a grammar of calls without tags. `begun` is what there is, up to the first call's name."""
    place = next(place for place, tool in enumerate(rules.tools) if tool.name == name)
    rest = 'W "," W "\\"arguments\\"" W ":" W {arguments} W "}}"'
    fence, end = ('"```json" W ', ' W "```"') if fenced else ("", "")
    again = f" (W {fence}tool{end})*" if rules.parallel else ""
    return "\n".join(
        [
            f"start: {_json(begun)} {rest.format(arguments=f'a{place}')}{end}{again}",
            *_tools(rules, '"{{" W "\\"name\\"" W ":" W "{name}" ' + rest),
            "W: /[ \\n]{0,40}/",
        ]
    )


def _tools(rules: ToolRules, form: str) -> list[str]:
    """The rule of an object that calls a tool, by its form, and those of the tools' arguments."""
    forms = [
        form.format(name=_json(_json(tool.name))[1:-1], arguments=f"a{place}")
        for place, tool in enumerate(rules.tools)
    ]
    arguments = [
        f"a{place}: %json {guided(json.loads(tool.schema), lenient=not tool.strict)}"
        for place, tool in enumerate(rules.tools)
    ]
    return ["tool: " + " | ".join(forms), *arguments]


def _xml_tools(rules: ToolRules) -> list[str]:
    """The rule of an element that calls a tool, and those of each."""
    names = [f"f{place}" for place in range(len(rules.tools))]
    tools = zip(names, rules.tools, strict=True)
    forms = [xml_tool(name, tool.name, tool.schema, strict=tool.strict) for name, tool in tools]
    return ["tool: " + " | ".join(names), *(line for form in forms for line in form)]


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
