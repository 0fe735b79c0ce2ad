"""One conversation at a time: prompts in, streamed text out."""

import time
from collections.abc import Callable, Generator, Sequence

from bmqwen.errors import FeedInterruptedError, InputError
from bmqwen.generate.batcher import Batcher
from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.drafts import Guesser
from bmqwen.generate.generation import Generation
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Runtime

Progress = Callable[[int, int], None]  # new tokens read, new tokens in all
Cancelled = Callable[[], bool]


class Session:
    """Generates with one runtime, one answer at a time, and feeds it only what is not cached yet. Not thread-safe.

    A generation that ends early in any way (its generator closed, an exception, Ctrl-C, `cancelled`) leaves
    the session usable: what was fed stays in the cache.

    Attributes:
        batcher: what computes; whoever has several answers to compute at once uses it instead.
        saved: conversations that others took the place of.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        saved: ConversationCache | None = None,
        drafts: bool = True,
        guesser: Guesser | None = None,
        reproducible: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """As a `Batcher`."""
        self.batcher = Batcher(
            runtime,
            tokenizer,
            saved=saved,
            drafts=drafts,
            guesser=guesser,
            reproducible=reproducible,
            clock=clock,
        )
        self.runtime, self.tokenizer, self.saved = runtime, tokenizer, self.batcher.saved
        self._last: Generation | None = None
        self._busy = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that are cached of the newest prompt and its answer."""
        slot = self._last.slot if self._last else None
        return tuple(slot.tokens) if slot else ()

    @property
    def longest_prompt(self) -> int:
        """Most tokens that a prompt may have: one less than the context, for one token of the answer."""
        return self.batcher.longest_prompt

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        on_prefill: Progress | None = None,
        cancelled: Cancelled | None = None,
        owner: str = "",
    ) -> Generator[Piece, None, Completion]:
        """Yield the answer's text as it comes; the generator's return value is the whole of it.

        `on_prefill(done, total)` is called while the prompt's new tokens are read. `cancelled()` is asked
        before each step of the runtime; once true, or once a step was interrupted, the generation
        ends with the finish reason "cancelled". What was cached for one `owner` is never used for another.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InputError: an empty prompt, a wrong token id, or another generation of this session still runs.
            SchemaError: the answer cannot be held to the JSON schema.
            DeviceError: the runtime failed or computed logits that are not numbers.
        """
        if self._busy:
            raise InputError("this session is still answering; finish or close that answer first")
        generation = self._last = self.batcher.add(prompt_ids, params, owner)
        self._busy = True
        try:
            if on_prefill is not None and not generation.over:
                on_prefill(0, generation.to_read)
            while not generation.over:
                reading = generation.reading
                generation.cancelled |= cancelled is not None and cancelled()
                try:
                    self.batcher.step()
                except FeedInterruptedError:
                    generation.cancelled = True
                if on_prefill is not None and reading and not generation.cancelled:
                    on_prefill(generation.read, generation.to_read)
                while generation.pieces:
                    yield generation.pieces.popleft()
        finally:
            self.batcher.drop(generation)
            self._busy = False
        if generation.error is not None:
            raise generation.error
        assert generation.completion is not None
        return generation.completion

    def reset(self) -> None:
        """Empty the KV cache, and forget what was saved and what was answered."""
        self.batcher.reset()

    def close(self) -> None:
        """Close the runtime. May be called twice."""
        self._last = None
        self.saved.clear()
        self.runtime.close()
