"""Token ids to text, one by one, never half a character."""

import codecs
from collections.abc import Sequence

from bmqwen.generate.tokenizer import Tokenizer


class Detokenizer:
    """Incremental decoding: all that `push` returned plus `finish()` equals `Tokenizer.decode` of the tokens.

    It works on bytes: tokenizers' DecodeStream decodes the last tokens again at each step, shows a broken
    sequence one token late, and never gives an unfinished end out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that are complete with this token."""
        return self._decoder.decode(self._tokenizer.shown_bytes(token_id))

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """U+FFFD if a character was left unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)


def tokens_showing(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int]:
    """Token ids that show exactly `text`: of `ids`, sampled for it and perhaps for more, as many as possible.

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
