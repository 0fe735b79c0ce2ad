"""JSON schemas as answers are held to them: what clients send, made ready for the grammar."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bmqwen.errors import SchemaError

# Formats that a grammar can hold; any other is a remark, as JSON Schema has it.
FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
# Of more optional ones in an object a grammar takes minutes to make, if it can be made.
MOST_PROPERTIES = 400

_ONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
)
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
# What lets an object have other properties than those that it lists, or lists them elsewhere.
_OPENING = ("additionalProperties", "unevaluatedProperties", "patternProperties", "$ref", *_SEVERAL[:3])


def held_schema(schema: Mapping[str, Any], param: str) -> str:
    """Return a schema as JSON, ready for a grammar; `param` is the request's field that has it.

    An object that lists its properties has no others, unless the schema says so (or it is a part of an allOf).
    A format that a grammar cannot hold is left out; so is uniqueItems that asks for nothing.

    Raises SchemaError for one that is nested too deep, or lists too many properties.
    """
    try:
        return json.dumps(_held(schema, frozenset(_composed(schema)), param, composed=False))
    except RecursionError:
        raise SchemaError("the JSON schema is nested too deep", param) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise SchemaError(f"the JSON schema cannot be used: {error}", param) from None


def _held(schema: Any, open_refs: frozenset[str], param: str, *, composed: bool, place: str = "#") -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key, name, part in _parts(schema):
        inner = f"{place}/{key}" + ("" if name is None else f"/{name}")
        # Parts of an allOf share their properties.
        held = _held(part, open_refs, param, composed=key == "allOf" and _is_composed(schema), place=inner)
        if name is None:
            made[key] = held
        else:
            made[key] = made[key].copy()
            made[key][name] = held
    listed = schema.get("properties")
    if isinstance(listed, Mapping):
        required = schema.get("required")
        names = required if isinstance(required, list) else []
        optional = sum(name not in names for name in listed)
        if optional > MOST_PROPERTIES:
            raise SchemaError(
                f"the JSON schema has an object with {optional:,} optional properties, but at most {MOST_PROPERTIES} "
                "can be held: list those that are needed as required",
                param,
            )
        if not composed and place not in open_refs and not any(key in schema for key in _OPENING):
            made["additionalProperties"] = False
    if isinstance(schema.get("format"), str) and schema["format"] not in FORMATS:
        del made["format"]
    if schema.get("uniqueItems") is False:
        del made["uniqueItems"]
    return made


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The schemas within a schema: their keyword, their name or place below it if there are several, themselves."""
    for key in _ONE:
        if key in schema:
            yield key, None, schema[key]
    for key in _SEVERAL:
        if isinstance(schema.get(key), list):
            yield from ((key, place, part) for place, part in enumerate(schema[key]))
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            yield from ((key, name, part) for name, part in schema[key].items())


def _is_composed(schema: Mapping[str, Any]) -> bool:
    """Whether a schema's allOf adds something to something: a reference in one of its own is mere style."""
    return len(schema["allOf"]) > 1 or "properties" in schema


def _composed(schema: Any) -> Iterator[str]:
    """The references of schemas that are parts of an allOf."""
    if not isinstance(schema, Mapping):
        return
    for key, _, part in _parts(schema):
        if key == "allOf" and _is_composed(schema) and isinstance(part, Mapping) and "$ref" in part:
            yield str(part["$ref"])
        yield from _composed(part)
