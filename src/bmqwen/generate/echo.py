"""A prompt at the beginning of its own answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bmqwen.generate.params import Piece, SamplingParams, TokenLogprob
from bmqwen.generate.sampler import check_logits, token_logprob
from bmqwen.generate.tokenizer import Tokenizer


class PromptEcho:
    """Shows a prompt, with the log-probabilities of its tokens where those of the answer are asked for.

    Attributes:
        scored: whether the logits after every token of the prompt are wanted, so that none may come from a cache.
    """

    def __init__(self, prompt: Sequence[int], params: SamplingParams, tokenizer: Tokenizer) -> None:
        self._prompt, self._alternatives, self._tokenizer = prompt, params.logprobs, tokenizer
        self.scored = params.logprobs is not None
        data = tokenizer.token_bytes(prompt[0])
        first = TokenLogprob(prompt[0], data.decode("utf-8", "replace"), data, 0.0, predicted=False)
        self._logprobs = [first]

    def note(self, rows: NDArray[np.float32]) -> None:
        """Take the logits after the prompt's next tokens, float32 [tokens, vocab_size].

        Raises DeviceError for logits that are not numbers.
        """
        for row in rows[: len(self._prompt) - len(self._logprobs)]:
            check_logits(row)
            token = self._prompt[len(self._logprobs)]
            self._logprobs.append(token_logprob(row, token, self._alternatives or 0, self._tokenizer))

    def piece(self) -> Piece:
        """Return the prompt as the first piece of its answer, control tokens by their names."""
        text = b"".join(map(self._tokenizer.token_bytes, self._prompt)).decode("utf-8", "replace")
        return Piece(text, tuple(self._logprobs) if self.scored else ())
