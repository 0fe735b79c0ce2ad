"""The parts of an answer, told apart as its text streams: thoughts, text, tool calls."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from bmqwen.util.text import overlap

PartKind = Literal["thought", "text", "tool_call"]
# What stands around a part, in all of Qwen's templates and in those of models distilled into Qwen. Text has nothing.
TAGS: Mapping[PartKind, tuple[str, str]] = {
    "thought": ("<think>", "</think>"),
    "tool_call": ("<tool_call>", "</tool_call>"),
}


class Part(NamedTuple):
    """New text of a part. `call` counts the tool calls of an answer from 0; it is 0 for the other kinds."""

    kind: PartKind
    text: str
    call: int = 0


class AnswerParts:
    """Cuts the text of an answer into parts; the result does not depend on how the text comes in pieces.

    Thoughts stand only at an answer's beginning, so that a text may speak of their tags. Blanks beside a tag belong
    to no part. A part that is still open when the answer ends is one all the same.

    Attributes:
        kind: of the part that is being read.
        thought: whether there were thoughts, be they empty.
    """

    def __init__(self, kinds: Collection[PartKind], *, thinking: bool = False) -> None:
        """Look for `kinds` beside text; all other tags are text. `thinking`: the prompt has opened the thoughts."""
        self.kind: PartKind = "thought" if thinking else "text"
        self.thought = thinking
        self._kinds = frozenset(kinds) - {"text"}
        self._calls = 0
        self._held = ""
        self._begun = False  # this part has text
        self._first = not thinking  # nothing but blanks came before, and no tag
        self._after_tag = thinking

    @property
    def may_think(self) -> bool:
        """Whether thoughts can still begin: nothing but blanks came so far."""
        return "thought" in self._kinds and self._first and not self._begun

    def push(self, text: str) -> list[Part]:
        """Return the parts that are certain now; what may belong to a tag is held back."""
        self._held += text
        parts: list[Part] = []
        # All tags begin so; most tokens of an answer have none.
        while "<" in self._held and (found := self._next_tag()) is not None:
            start, tag, kind = found
            self._take(parts, self._held[:start].rstrip())
            self._held = self._held[start + len(tag) :]
            self._calls += self.kind == "tool_call"
            self.thought |= kind == "thought"
            self.kind, self._begun, self._first, self._after_tag = kind, False, False, True
        certain = self._held
        if tags := self._tags():
            tag_begins = max(overlap(certain, tag) for tag in tags) if "<" in certain else 0
            certain = certain[: len(certain) - tag_begins].rstrip()
        self._held = self._held[len(certain) :]
        self._take(parts, certain)
        return parts

    def finish(self) -> list[Part]:
        """Return what was held back, once no more can follow."""
        parts: list[Part] = []
        self._take(parts, self._held if self.kind == "text" else self._held.rstrip())
        self._held = ""
        return parts

    def _tags(self) -> dict[str, PartKind]:
        """The tags that would end this part, and what would follow."""
        if self.kind != "text":
            return {TAGS[self.kind][1]: "text"}
        if not self._kinds:
            return {}
        opening = self._kinds if self.may_think else self._kinds - {"thought"}
        return {TAGS[kind][0]: kind for kind in opening}

    def _next_tag(self) -> tuple[int, str, PartKind] | None:
        """Return place and text of the first tag that ends this part, and the kind that follows."""
        found = [(self._held.find(tag), tag, kind) for tag, kind in self._tags().items() if tag in self._held]
        # Thoughts only where nothing but blanks is before them.
        found = [one for one in found if one[2] != "thought" or not self._held[: one[0]].strip()]
        return min(found, default=None)

    def _take(self, parts: list[Part], text: str) -> None:
        if self._after_tag and not self._begun:
            text = text.lstrip()
        if text:
            self._begun = True
            parts.append(Part(self.kind, text, self._calls if self.kind == "tool_call" else 0))


def split_thoughts(text: str) -> tuple[str, str]:
    """Return the thoughts and the text of a whole answer; without thoughts the text as it is."""
    if TAGS["thought"][1] not in text:
        return "", text
    parts = AnswerParts({"thought"}, thinking=TAGS["thought"][0] not in text)
    found = [*parts.push(text), *parts.finish()]
    thoughts, answer = (
        "".join(part.text for part in found if part.kind == kind) for kind in ("thought", "text")
    )
    return thoughts, answer
