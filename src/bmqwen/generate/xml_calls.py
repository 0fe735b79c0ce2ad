"""Calls as the templates of Qwen3-Coder and Qwen3.5 write them, an element for the function and one for each argument:

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Texts stand as they are, all else is JSON. Which is which says the tool's schema.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from bmqwen.errors import SchemaError
from bmqwen.generate.grammar import guided
from bmqwen.generate.json_schema import FORMATS
from bmqwen.util.text import overlap

FUNCTION = re.compile(r"<function=(?P<name>[^>\n]*)>")
_END = re.compile(r"\s*</function>")
# A value begins after one line break, which has to be there, or not, before it can be told.
_PARAMETER = re.compile(r"\s*<parameter=(?P<name>[^>\n]*)>(?:\n|(?=[^\n]))")
_VALUE_ENDS = ("\n</parameter>", "</parameter>")
# A text may hold the tag itself: it ends where another argument, or the call's end, follows.
_VALUE_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>))")
_FOLLOWS = ("<parameter=", "</function>")
_MAYBE_END = re.compile(r"\n?</parameter>\s*(?P<tail>\S{0,11})\Z")
# The template of Qwen3.5 shows the model these names of Python's.
_WORDS = {"True": True, "False": False, "None": None}
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
_DEEPEST = 16
_REMARKS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions", "type"}
)
_HELD_OF_OBJECTS = _REMARKS | {"properties", "required", "additionalProperties"}
_HELD_OF_TEXTS = _REMARKS | {"enum", "const", "minLength", "maxLength"}


class XmlArguments:
    """Reads the elements of a call's arguments, in pieces, as the JSON of an object."""

    def __init__(self, schema: str) -> None:
        """`schema` is that of the object, as JSON."""
        self._schema: Mapping[str, Any] = json.loads(schema)
        self._held = ""
        self._count = 0
        self._reading = self._over = False
        self._types: frozenset[str] = frozenset()

    def push(self, text: str) -> str:
        """Take more of the call; return what is certain now of the object."""
        self._held += text
        made = ""
        while not self._over and (more := self._value() if self._reading else self._next()):
            made += more
        return made

    def _next(self) -> str:
        """Read the beginning of an argument, or the end of all."""
        if _END.match(self._held):
            self._over = True
            return "}" if self._count else "{}"
        found = _PARAMETER.match(self._held)
        if found is None:
            return ""
        self._held = self._held[found.end() :]
        self._reading = True
        self._types = json_types(argument_schema(self._schema, found["name"]), self._schema)
        self._count += 1
        name = as_json(found["name"])
        return f"{', ' if self._count > 1 else '{'}{name}: " + ('"' if self._is_text else "")

    @property
    def _is_text(self) -> bool:
        return self._types == {"string"}

    def _value(self) -> str:
        """Read a value, or what is certain of a text."""
        found = _VALUE_END.search(self._held)
        if found is not None:
            value, self._held = self._held[: found.start()], self._held[found.end() :]
            self._reading = False
            return as_json(value)[1:] if self._is_text else as_json(read_value(value, self._types))
        if not self._is_text:
            return ""
        end = len(self._held) - max(overlap(self._held, tag) for tag in _VALUE_ENDS)
        maybe = _MAYBE_END.search(self._held)
        if maybe and any(tag.startswith(maybe["tail"]) for tag in _FOLLOWS):
            end = min(end, maybe.start())
        certain = self._held[:end]
        self._held = self._held[len(certain) :]
        return as_json(certain)[1:-1]


def as_json(value: Any) -> str:
    """Return a value as JSON in which text stays readable; half a surrogate pair, which UTF-8 has not, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.dumps(value) if re.search("[\ud800-\udfff]", text) else text


def read_value(text: str, types: frozenset[str]) -> Any:
    """Return the value that a text between tags stands for, of one of the types that its schema has (if it has any)."""
    if types == {"string"}:
        return text
    try:
        value = _WORDS[text.strip()] if text.strip() in _WORDS else json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str) and (not types or "string" in types):
        return text
    allowed = types | ({"integer"} if "number" in types else frozenset())
    return value if not types or _type(value) in allowed else text


def json_types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """Return the JSON types of values that a schema within `root` allows; none where it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    named = schema.get("type")
    if isinstance(named, (str, list)):
        return frozenset([named] if isinstance(named, str) else map(str, named))
    if "const" in schema:
        return frozenset({_type(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(map(_type, schema["enum"]))
    if "$ref" in schema:
        return json_types(_referred(str(schema["$ref"]), root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list):
            parts = [json_types(part, root, depth + 1) for part in schema[key]]
            if key != "allOf" and not all(parts):
                return frozenset()
            return frozenset().union(*parts)
    return frozenset()


def argument_schema(schema: Mapping[str, Any], name: str) -> Any:
    """Return the schema of an object's property; that of others where it is not listed."""
    listed = schema.get("properties")
    if isinstance(listed, Mapping) and name in listed:
        return listed[name]
    return schema.get("additionalProperties")


def xml_tool(rule: str, name: str, schema: str, *, strict: bool) -> list[str]:
    """Return the rules, in Lark's language, of a call of one tool; the first is called `rule`.

    As in JSON, arguments come in the order of their schema.

    Raises SchemaError for what cannot be written in this form; where it is `strict` also for what cannot be held.
    """
    root: Mapping[str, Any] = json.loads(schema)
    if strict and (odd := set(root) - _HELD_OF_OBJECTS):
        raise _not_held(min(odd))
    listed, required = root.get("properties"), root.get("required")
    listed = listed if isinstance(listed, Mapping) else {}
    required = required if isinstance(required, list) else []
    lines, parts = [], []
    for place, (argument, own) in enumerate(listed.items()):
        if re.search(r"[>\n]", argument):
            raise SchemaError(
                f"the argument {argument!r} cannot be called: take > and line breaks out of its name", "tools"
            )
        part = f"{rule}_{place}"
        parts.append(part + ("" if argument in required else "?"))
        opening = as_json(f"<parameter={argument}>\n")
        lines += _value_rules(part, opening, own, root, strict=strict)
    others = root.get("additionalProperties", True)
    if others is not False:
        parts.append(f"{rule}_other*")
        lines += _value_rules(
            f"{rule}_other", r'"<parameter=" /[^<>\n]{1,64}/ ">\n"', others, root, strict=strict
        )
    return [f'{rule}: {as_json(f"<function={name}>" + chr(10))} {" ".join(parts)} "</function>"', *lines]


def _value_rules(rule: str, opening: str, schema: Any, root: Mapping[str, Any], *, strict: bool) -> list[str]:
    """The rules of one argument's element."""
    types = json_types(schema, root)
    closing = r'"\n</parameter>\n"'
    if types and "string" not in types:
        shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
        inner = guided({**schema, **shared}, lenient=not strict)
        return [f"{rule}: {opening} {rule}_value {closing}", f"{rule}_value: %json {inner}"]
    fields: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
    odd = {key for key in set(fields) - _HELD_OF_TEXTS if key != "format" or fields[key] in FORMATS}
    if strict and odd:
        raise _not_held(min(odd))
    values = [fields["const"]] if "const" in fields else fields.get("enum")
    if isinstance(values, list) and values:
        texts = [as_json(value if isinstance(value, str) else as_json(value)) for value in values]
        return [f"{rule}: {opening} ({' | '.join(texts)}) {closing}"]
    least, most = fields.get("minLength"), fields.get("maxLength")
    count = f"{{{least or 0},{'' if most is None else most}}}" if isinstance(least or most, int) else "*"
    return [
        f"{rule}: {opening} {rule}_text",
        rf"{rule}_text[lazy]: /(?s:.{count})\n<\/parameter>\n/",
    ]


def _not_held(key: str) -> SchemaError:
    return SchemaError(
        f"answers cannot be held to {key} of a JSON schema, in the form that this model's calls have: leave it out",
        "tools",
    )


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _type(value: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "null")
