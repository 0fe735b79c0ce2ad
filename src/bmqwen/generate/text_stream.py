"""From sampled tokens to shown text: never half a character, never part of a stop string."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmqwen.generate.answer_parts import TAGS, AnswerParts, Part
from bmqwen.generate.params import Piece, PieceKind, SamplingParams, TokenLogprob
from bmqwen.generate.sampler import token_logprob
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.util.text import overlap

# Empty lines, the blanks of the next one and its first character, if there is one yet.
_NEXT_LINE = re.compile(r"\n(?:[ \t]*\n)*([ \t]*)([^ \t\n]?)")


class Detokenizer:
    """Incremental decoding: all that `push` returned plus `finish()` equals `Tokenizer.decode` of the tokens.

    It works on bytes: tokenizers' DecodeStream decodes the last tokens again at each step, shows a broken
    sequence one token late, and never gives an unfinished end out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the characters that are complete with this token."""
        return self._decoder.decode(self._tokenizer.shown_bytes(token_id))

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """Return U+FFFD if a character was left unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)


def tokens_showing(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int]:
    """Return token ids that show exactly `text`: of `ids`, sampled for it and perhaps for more, as many as possible.

    `ids` may show more than `text` (a stop string cut it) or less (the last token was never fed).
    """
    if tokenizer.decode(ids) == text:
        return list(ids)
    detokenizer = Detokenizer(tokenizer)
    shown, kept, kept_length = 0, 0, 0
    for count, token_id in enumerate(ids, start=1):
        piece = detokenizer.push(token_id)
        if not text.startswith(piece, shown):
            break
        shown += len(piece)
        if not detokenizer.pending:
            kept, kept_length = count, shown
    return [*ids[:kept], *tokenizer.encode(text[kept_length:])]


class StopStrings:
    """A filter between the detokenizer and the reader, whose result does not depend on how text is cut.

    The stop string that is complete first ends the text; among those complete at once, the longest.

    Attributes:
        found: the one that ended the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Return text that can be shown now, and whether a stop string was found (nothing follows then)."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, start, self.found = min(found)
            return text[:start], True
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return text held back, once no more can follow."""
        held, self._held = self._held, ""
        return held


class Indentation:
    """A filter that ends a text before the first new line which is indented less than it should be."""

    def __init__(self, least: int) -> None:
        self._least, self._held = least, ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return text that can be shown now, and whether it ends there."""
        if not self._least:
            return text, False
        text = self._held + text
        self._held = ""
        for line in _NEXT_LINE.finditer(text):
            if not line[2]:  # more blanks may follow
                self._held = line[0]
                return text[: line.start()], False
            if len(line[1]) < self._least:
                return text[: line.start()], True
        return text, False

    def flush(self) -> str:
        """Return text held back, once no more can follow."""
        held, self._held = self._held, ""
        return held


class TextEnd:
    """Both filters, one after the other."""

    def __init__(self, params: SamplingParams) -> None:
        self._stops, self._indentation = StopStrings(params.stop), Indentation(params.least_indent)

    @property
    def found(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    def push(self, text: str) -> tuple[str, bool]:
        """Return text that can be shown now, and whether it ends there."""
        text, stopped = self._stops.push(text)
        text, outdented = self._indentation.push(text)
        return text + self._indentation.flush() if stopped else text, stopped or outdented

    def flush(self) -> str:
        """Return text held back, once no more can follow."""
        text, outdented = self._indentation.push(self._stops.flush())
        return text if outdented else text + self._indentation.flush()


@dataclass(slots=True)
class AnswerText:
    """The text of one generation: `ids` without the stop token, `pieces` all that was shown.

    The end of `prompt` decides where the answer begins: a chat template may have opened the thoughts there, or closed
    them for a model that is not to think.
    """

    tokenizer: Tokenizer
    params: SamplingParams
    prompt: InitVar[Sequence[int]] = ()
    ids: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    stopped: bool = False
    thought_tokens: int = 0  # the first of `ids`: thoughts, with their tags
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _detokenizer: Detokenizer = field(init=False)
    _parts: AnswerParts = field(init=False)
    _stops: TextEnd = field(init=False)
    _noted: TokenLogprob | None = None
    _reported: int = 0
    _answered: bool = False  # something else than thoughts came

    def __post_init__(self, prompt: Sequence[int]) -> None:
        self._detokenizer = Detokenizer(self.tokenizer)
        opening, closing = TAGS["thought"]
        end = self.tokenizer.end_of_prompt(prompt)
        apart = self.params.thoughts and not end.endswith(closing)
        self._parts = AnswerParts({"thought"} if apart else (), thinking=apart and end.endswith(opening))
        self._stops = TextEnd(self.params)

    @property
    def in_thoughts(self) -> bool:
        """Whether the model is thinking now."""
        return self._parts.kind == "thought"

    @property
    def may_think(self) -> bool:
        """Whether thoughts could still begin: nothing but blanks came."""
        return self._parts.may_think

    def text(self, kind: PieceKind = "text") -> str:
        """Return all that was shown of one kind."""
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the tokens after the thoughts."""
        return tuple(self._logprobs[self.thought_tokens :])

    def begin_with(self, piece: Piece) -> None:
        """Take a piece that is shown before all that the model writes."""
        self.pieces.append(piece)
        self._answered = True
        self._logprobs.extend(piece.logprobs)
        self._reported = len(self._logprobs)

    def note(self, logits: NDArray[np.float32], token: int) -> None:
        """Keep the log-probabilities of the token that comes next, if they are asked for."""
        if self.params.logprobs is not None:
            self._noted = token_logprob(logits, token, self.params.logprobs, self.tokenizer)

    def push(self, token: int) -> list[Piece]:
        """Take a token; the pieces to show now, if there is anything to show."""
        self.ids.append(token)
        if self._noted is not None:
            self._logprobs.append(self._noted)
        parts = self._parts.push(self._detokenizer.push(token))
        self._answered = self._answered or any(part.kind != "thought" for part in parts)
        if self._parts.thought and not self._answered:
            self.thought_tokens, self._reported = len(self.ids), len(self._logprobs)
        return self._show(parts)

    def late(self, seconds: float) -> bool:
        """Whether the time of an answer is up that writes since so many seconds."""
        limit, line_limit = self.params.seconds, self.params.line_seconds
        if (
            line_limit is not None
            and seconds > line_limit
            and any("\n" in piece.text for piece in self.pieces)
        ):
            return True
        return limit is not None and seconds > limit

    def finish(self, *, complete: bool) -> list[Piece]:
        """Return what was held back, and the log-probabilities that no piece carried.

        `complete`: the model ended the text here; a character that it left unfinished is shown as U+FFFD.
        """
        pieces: list[Piece] = []
        if not self.stopped:
            tail = self._detokenizer.finish() if complete else ""
            pieces = self._show([*self._parts.push(tail), *self._parts.finish()])
        if not self.stopped and (held := self._stops.flush()):
            pieces.append(self._piece(Part("text", held)))
        if self._reported < len(self._logprobs):
            pieces.append(self._piece(Part("text", "")))
        return pieces

    def _show(self, parts: Sequence[Part]) -> list[Piece]:
        """Take parts until a stop string ends the text."""
        pieces = []
        for part in parts:
            text = part.text
            if part.kind == "text":
                text, self.stopped = self._stops.push(text)
            elif held := self._stops.flush():
                pieces.append(self._piece(Part("text", held)))
            if text:
                pieces.append(self._piece(part if text == part.text else part._replace(text=text)))
            if self.stopped:
                break
        return pieces

    def _piece(self, part: Part) -> Piece:
        fresh: tuple[TokenLogprob, ...] = ()
        if part.kind == "text":
            fresh = tuple(self._logprobs[self._reported :])
            self._reported = len(self._logprobs)
        piece = Piece(part.text, fresh, "thought" if part.kind == "thought" else "text")
        self.pieces.append(piece)
        return piece
