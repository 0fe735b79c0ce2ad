"""From sampled tokens to shown text: never half a character, never part of a stop string."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmqwen.generate.params import Piece, SamplingParams, TokenLogprob
from bmqwen.generate.sampler import token_logprob
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.util.text import overlap


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
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return text that can be shown now, and whether a stop string was found (nothing follows then)."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return text held back, once no more can follow."""
        held, self._held = self._held, ""
        return held


@dataclass(slots=True)
class AnswerText:
    """The text of one generation: `ids` without the stop token, `shown` the texts of its pieces."""

    tokenizer: Tokenizer
    params: SamplingParams
    ids: list[int] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stopped: bool = False
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopStrings = field(init=False)
    _tail: str = ""
    _noted: TokenLogprob | None = None
    _reported: int = 0

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.tokenizer)
        self._stops = StopStrings(self.params.stop)

    def begin_with(self, piece: Piece) -> None:
        """Take a piece that is shown before all that the model writes."""
        self.shown.append(piece.text)
        self.logprobs.extend(piece.logprobs)
        self._reported = len(self.logprobs)

    def note(self, logits: NDArray[np.float32], token: int) -> None:
        """Keep the log-probabilities of the token that comes next, if they are asked for."""
        if self.params.logprobs is not None:
            self._noted = token_logprob(logits, token, self.params.logprobs, self.tokenizer)

    def push(self, token: int) -> Piece | None:
        """Take a token; the piece to show now, if there is anything to show."""
        self.ids.append(token)
        if self._noted is not None:
            self.logprobs.append(self._noted)
        text, self.stopped = self._stops.push(self._detokenizer.push(token))
        return self._piece(text) if text else None

    def late(self, seconds: float) -> bool:
        """Whether an answer that writes since so many seconds is to end: its time is up, and a line is whole."""
        limit = self.params.line_seconds
        return limit is not None and seconds > limit and any("\n" in text for text in self.shown)

    def end_of_text(self) -> None:
        """End the text where the model ended it: a character that it left unfinished is shown as U+FFFD."""
        self._tail, self.stopped = self._stops.push(self._detokenizer.finish())

    def rest(self) -> Piece | None:
        """Return what was held back, and the log-probabilities that no piece carried."""
        text = self._tail + ("" if self.stopped else self._stops.flush())
        return self._piece(text) if text or self._reported < len(self.logprobs) else None

    def _piece(self, text: str) -> Piece:
        self.shown.append(text)
        fresh = tuple(self.logprobs[self._reported :])
        self._reported = len(self.logprobs)
        return Piece(text, fresh)
