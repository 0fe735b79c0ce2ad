"""Calls of tools in an answer, for people."""

import json
from typing import Any

from bmqwen.generate.answer_parts import TAGS, AnswerParts
from bmqwen.generate.xml_calls import FUNCTION, XmlArguments


def with_calls(answer: str) -> str:
    """Return an answer in which each call between tags is a line such as `[calls get_weather {"city": "Paris"}]`."""
    if TAGS["tool_call"][0] not in answer:
        return answer
    parts = AnswerParts({"tool_call"})
    blocks: list[tuple[str, int, str]] = []
    for part in [*parts.push(answer), *parts.finish()]:
        begun = blocks.pop()[2] if blocks and blocks[-1][:2] == (part.kind, part.call) else ""
        blocks.append((part.kind, part.call, begun + part.text))
    return "\n".join(_line(text) if kind == "tool_call" else text for kind, _, text in blocks)


def _line(call: str) -> str:
    """What is called, and with what; a call that cannot be read is shown as it is."""
    if (found := FUNCTION.match(call)) is not None:
        return f"[calls {found['name']} {XmlArguments('{}').push(call[found.end() :])}]"
    try:
        fields: Any = json.loads(call)
        return f"[calls {fields['name']} {json.dumps(fields.get('arguments', {}), ensure_ascii=False)}]"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"[calls {call}]"
