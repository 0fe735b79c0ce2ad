"""Calls of tools, read out of an answer while it streams."""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from bmqwen.generate.answer_parts import TAGS, AnswerParts, Part, PartKind
from bmqwen.generate.xml_calls import FUNCTION, XmlArguments, as_json


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call; `arguments` is JSON of an object, or its beginning where the answer was cut."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; `index` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments."""

    index: int
    text: str


NO_TOOLS: Mapping[str, str] = {}
# A Part is one of thoughts or text.
Event = Part | CallStart | CallArguments


def new_call_id() -> str:
    """Return an id for a call."""
    return f"call_{secrets.token_hex(12)}"


class AnswerReader:
    """Reads an answer's text as thoughts, text and calls; the result does not depend on how the text is cut.

    Calls stand between tags, as JSON or as XML, or, as Coder models write them, in a fence for JSON or at the answer's
    beginning; without tags only calls of known tools are told from text. What cannot be read as a call is text.
    """

    def __init__(
        self,
        tools: Mapping[str, str] = NO_TOOLS,
        *,
        thoughts: bool = False,
        thinking: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """Begin an answer.

        Args:
            tools: the tools that may be called, by name, and their schemas as JSON; without any, calls are text.
            thoughts: whether thoughts are told apart.
            thinking: whether the prompt has opened the thoughts.
            new_id: makes ids of calls.
        """
        kinds: list[PartKind] = []
        if thoughts:
            kinds.append("thought")
        if tools:
            kinds.append("tool_call")
        self._parts = AnswerParts(kinds, thinking=thinking)
        self._bare = _BareCalls(frozenset(tools)) if tools else None
        self._tools, self._new_id = tools, new_id
        self._calls = 0
        self._call: _Call | None = None
        self._number = 0

    def push(self, text: str) -> list[Event]:
        """Take more of the answer; return what is certain now."""
        return [event for part in self._parts.push(text) for event in self._of(part)]

    def finish(self) -> list[Event]:
        """Return what was held back, once no more can follow."""
        events = [event for part in self._parts.finish() for event in self._of(part)]
        events += [event for part in self._rest_of_text() for event in self._of_split(part)]
        return [*events, *self._end_call()]

    def _of(self, part: Part) -> Iterator[Event]:
        if part.kind == "text" and self._bare is not None:
            parts = self._bare.push(part.text)
        else:
            parts = [*self._rest_of_text(before_call=True), part]
        for one in parts:
            yield from self._of_split(one)

    def _rest_of_text(self, *, before_call: bool = False) -> list[Part]:
        return [] if self._bare is None else self._bare.finish(before_call=before_call)

    def _of_split(self, part: Part) -> Iterator[Event]:
        if part.kind != "tool_call":
            yield from self._end_call()
            yield part
            return
        if self._call is None or self._number != part.call:
            yield from self._end_call()
            self._call, self._number = _Call(self._tools), part.call
        yield from self._numbered(self._call.push(part.text))

    def _end_call(self) -> Iterator[Event]:
        call, self._call = self._call, None
        if call is not None:
            yield from self._numbered(call.finish())

    def _numbered(self, pieces: Iterator["_Piece"]) -> Iterator[Event]:
        for piece in pieces:
            if isinstance(piece, Part):
                yield piece
                continue
            name, arguments = piece
            if name:
                self._calls += 1
                yield CallStart(self._calls - 1, self._new_id(), name)
            if arguments:
                yield CallArguments(self._calls - 1, arguments)


# The name of a call that begins (or ""), and a piece of its arguments; or text.
_Piece = tuple[str, str] | Part
_HEAD = r'\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*(?:(?P<none>\})|,\s*"arguments"\s*:\s*(?=\{))'
_WHOLE_HEAD = re.compile(_HEAD)
_FENCED_HEAD = re.compile(r"(?P<fence>```(?:json)?\s*)?" + _HEAD)


def _beginnings(*parts: str) -> str:
    """Return a pattern of what can become a match of the parts, one after the other."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"(?:{part}{pattern})?"
    return pattern


_HEAD_PARTS = (
    *(r"\{", r'\s*"', *"name", '"', r"\s*:", r'\s*"', r'[^"\\]*', '"'),
    *(r"\s*,", r'\s*"', *"arguments", '"', r"\s*:"),
)
_BARE_BEGINNING = re.compile(_beginnings(*_HEAD_PARTS) + r"\s*")
_FENCED_BEGINNING = re.compile(_beginnings("`", "`", "`", r"(?:json|jso|js|j)?\s*", *_HEAD_PARTS) + r"\s*")


class _Call:
    """One call's object, as text that comes in pieces."""

    def __init__(self, tools: Mapping[str, str]) -> None:
        self._tools = tools
        self._held = ""
        self._arguments: _Object | XmlArguments | None = None

    def push(self, text: str) -> Iterator[_Piece]:
        if self._arguments is None:
            self._held += text
            found = _WHOLE_HEAD.match(self._held) or FUNCTION.match(self._held)
            if found is None or found["name"] not in self._tools:
                return
            schema = self._tools[found["name"]]
            self._arguments = XmlArguments(schema) if found.re is FUNCTION else _Object()
            none = found.groupdict().get("none")
            text = "{}" if none else self._held[found.end() :]
            yield found["name"], ""
        if piece := self._arguments.push(text):
            yield "", piece

    def finish(self) -> Iterator[_Piece]:
        """Read as a whole what did not stream well: its fields may have come in another order."""
        if self._arguments is not None:
            return
        try:
            fields = json.loads(self._held)
            name, arguments = fields["name"], fields.get("arguments", fields.get("parameters", {}))
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            known = name in self._tools and isinstance(arguments, dict)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            known = False
        if known:
            yield name, as_json(arguments)
        else:
            opening, closing = TAGS["tool_call"]
            yield Part(
                "text",
                f"{opening}\n{self._held}"
                + (f"\n{closing}" if self._held.endswith(("}", "</function>")) else ""),
            )


class _Object:
    """Finds the end of a JSON object that comes in pieces."""

    _marks = re.compile(r'["\\{}\[\]]')

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = self.over = False

    def push(self, text: str) -> str:
        """Return as much of the text as belongs to the object."""
        if self.over:
            return ""
        place = 0
        while place < len(text):
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            found = self._marks.search(text, place)
            if found is None:
                break
            mark, place = found[0], found.end()
            if self._quoted:
                self._escaped, self._quoted = mark == "\\", mark != '"'
            elif mark == '"':
                self._quoted = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if not self._depth:
                    self.over = True
                    return text[:place]
        return text


class _BareCalls:
    """Cuts text into text and calls without tags. White space that ends the text is held back: a call may follow."""

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = tools
        self._held = ""
        self._first = True  # nothing but calls and blanks came before
        self._object: _Object | None = None
        self._fenced = self._closing = self._after_call = False
        self._calls = 0

    def push(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        self._held += text
        parts: list[Part] = []
        while self._held and self._step(parts):
            pass
        return parts

    def finish(self, *, before_call: bool = False) -> list[Part]:
        """Return what was held back; white space before a call is left out."""
        parts: list[Part] = []
        if not self._closing:
            self._take(parts, self._held.rstrip() if before_call else self._held)
        self._held, self._object, self._closing = "", None, False
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Read some of what is held; False if it takes more text to go on."""
        if self._object is not None:
            text = self._object.push(self._held)
            parts.append(Part("tool_call", text, -self._calls))
            self._held = self._held[len(text) :]
            if self._object.over:
                self._object, self._closing, self._after_call = None, self._fenced, True
            return True
        if self._closing:
            rest = self._held.lstrip()
            if len(rest) < 3 and "```".startswith(rest):
                return False
            self._held, self._closing = rest.removeprefix("```"), False
            return True
        return self._read_text(parts)

    def _read_text(self, parts: list[Part]) -> bool:
        """Read text up to what is, or may become, a call."""
        lines = [found.end() for found in re.finditer("\n", self._held)]
        for start in [0, *lines] if self._first else lines:
            begin = len(self._held) - len(self._held[start:].lstrip())
            bare = self._first and not self._held[:begin].strip()
            found = _FENCED_HEAD.match(self._held, begin)
            if found is not None and found["name"] in self._tools and (bare or found["fence"]):
                self._take(parts, self._held[:begin].rstrip())
                self._held = self._held[found.start() + len(found["fence"] or "") :]
                self._object, self._fenced = _Object(), bool(found["fence"])
                self._calls += 1
                return True
            rest = self._held[begin:]
            if _FENCED_BEGINNING.fullmatch(rest) or (bare and _BARE_BEGINNING.fullmatch(rest)):
                break
        else:
            begin = len(self._held)
        certain = self._held[:begin].rstrip()
        self._take(parts, certain)
        self._held = self._held[len(certain) :]
        return False

    def _take(self, parts: list[Part], text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if text:
            self._first = self._after_call = False
            parts.append(Part("text", text))
