"""The text of one generation on its way out: tokens in, pieces out."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmqwen.generate.params import Piece, SamplingParams, TokenLogprob
from bmqwen.generate.sampler import token_logprob
from bmqwen.generate.stop_strings import StopStrings
from bmqwen.generate.text_stream import Detokenizer
from bmqwen.generate.tokenizer import Tokenizer


@dataclass(slots=True)
class Answer:
    """What one generation said so far: `ids` without the stop token, `shown` the texts of its pieces."""

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

    def end_of_text(self) -> None:
        """The model ended the answer: a character that it left unfinished is shown as U+FFFD."""
        text, self.stopped = self._stops.push(self._detokenizer.finish())
        self._tail = text

    def rest(self) -> Piece | None:
        """What was held back, and the log-probabilities that no piece carried."""
        text = self._tail + ("" if self.stopped else self._stops.flush())
        return self._piece(text) if text or self._reported < len(self.logprobs) else None

    def _piece(self, text: str) -> Piece:
        self.shown.append(text)
        fresh = tuple(self.logprobs[self._reported :])
        self._reported = len(self.logprobs)
        return Piece(text, fresh)
