"""One KV cache and the tokens in it: prompts in, streamed text out."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence

from bmqwen.errors import ContextLengthError, DeviceError, FeedInterruptedError, InputError
from bmqwen.generate.answer_parts import TAGS
from bmqwen.generate.call_grammar import answer_grammar
from bmqwen.generate.conversation_cache import ConversationCache, as_tokens, shared_length
from bmqwen.generate.echo import PromptEcho
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.params import Completion, FinishReason, Piece, SamplingParams, Usage
from bmqwen.generate.sampler import Sampler
from bmqwen.generate.text_stream import AnswerText
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Output, Runtime, RuntimeSequence

# Rows of logits at once: 64 of a vocabulary of 152,000 are 39 MB.
_SCORED_ROWS = 64
Progress = Callable[[int, int], None]  # new tokens read, new tokens in all
Cancelled = Callable[[], bool]


class Session:
    """Generates with one runtime, and feeds it only what its cache does not hold yet. Not thread-safe.

    A generation that ends early in any way (its generator closed, an exception, Ctrl-C, `cancelled`) leaves
    the session usable: what was fed stays in the cache.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        saved: ConversationCache | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`saved` keeps conversations that others take the place of; `clock` returns seconds."""
        self.runtime = runtime
        self.tokenizer = tokenizer
        self._sequence = RuntimeSequence(runtime)
        self.saved = ConversationCache(0) if saved is None else saved
        self._grammars = GrammarMaker(tokenizer)
        self._clock = clock
        self._tokens: list[int] = []
        self._owner = ""
        self._busy = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens in the KV cache."""
        self._sync_tokens()
        return tuple(self._tokens)

    @property
    def longest_prompt(self) -> int:
        """Most tokens that a prompt may have: one less than the context, for one token of the answer."""
        return self.runtime.context_length - 1

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
        before each call of the runtime; once true, or once a call of the runtime was interrupted, the generation
        ends with the finish reason "cancelled". What was cached for one `owner` is never used for another.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InputError: an empty prompt, a wrong token id, or another generation of this session still runs.
            SchemaError: the answer cannot be held to the JSON schema.
            DeviceError: the runtime failed or computed logits that are not numbers.
        """
        if self._busy:
            raise InputError("this session is still answering; finish or close that answer first")
        if not prompt_ids:
            raise InputError("the prompt has no tokens; write something")
        if len(prompt_ids) > self.longest_prompt:
            raise ContextLengthError(self.longest_prompt, len(prompt_ids), "shorten it")
        self._busy = True
        try:
            on_prefill, cancelled = on_prefill or _ignore, cancelled or (lambda: False)
            return (yield from self._run(list(prompt_ids), params, on_prefill, cancelled, owner))
        finally:
            self._busy = False

    def reset(self) -> None:
        """Empty the KV cache, and forget what was saved."""
        self._sequence.truncate(0)
        self._tokens.clear()
        self.saved.clear()

    def close(self) -> None:
        """Close the runtime. May be called twice."""
        self._tokens.clear()
        self.saved.clear()
        self.runtime.close()

    def _run(
        self,
        prompt: list[int],
        params: SamplingParams,
        on_prefill: Progress,
        cancelled: Cancelled,
        owner: str,
    ) -> Generator[Piece, None, Completion]:
        start = self._clock()
        grammar = answer_grammar(params, self._grammars)
        sampler = Sampler(params, self.runtime.vocab_size, prompt, grammar)
        answer = AnswerText(self.tokenizer, params, prompt)
        echo = PromptEcho(prompt, params, self.tokenizer) if params.echo else None
        stop_ids = self.tokenizer.stop_ids.union(params.stop_ids)
        cached = self._reuse_prefix(prompt[:1] if echo is not None and echo.scored else prompt, owner)
        room = self.runtime.context_length - len(prompt)
        limit = room if params.max_tokens is None else min(room, params.max_tokens)
        output = self._prefill(prompt[cached:], on_prefill, cancelled, echo)
        first = last = None
        sampled = 0
        closing: deque[int] = deque()  # what ends the thoughts in the model's place
        finish: FinishReason = "cancelled"
        if output is not None and echo is not None:
            shown = echo.piece()
            answer.begin_with(shown)
            yield shown
        if output is not None and limit == 0:
            output, finish = None, "length"
        while output is not None:
            if closing:
                token = closing.popleft()
                sampler.record(token, free=True)
            else:
                token = self._choose(output, sampler, answer)
            last = self._clock()
            first = last if first is None else first
            sampled += 1
            if token in stop_ids:
                finish = "stop"
                break
            yield from answer.push(token)
            if answer.stopped:
                finish = "stop"
                break
            if sampled == limit or answer.late(last - first):
                finish = "length"
                break
            spent = params.thinking_budget is not None and sampled >= params.thinking_budget
            if spent and answer.in_thoughts and not closing:
                closing.extend(self._end_of_thoughts())
            output = None if cancelled() else self._feed(token)
        yield from answer.finish(complete=finish == "stop" and not answer.stopped)
        if first is None or last is None:  # cancelled before the first token
            first = last = self._clock()
        usage = Usage(len(prompt), cached, sampled, first - start, last - first, answer.thought_tokens)
        return Completion(
            answer.text(), tuple(answer.ids), finish, usage, answer.logprobs, answer.text("thought")
        )

    def _choose(self, output: Output, sampler: Sampler, answer: AnswerText) -> int:
        # A JSON schema is the answer's, not the thoughts'.
        free, beside = answer.in_thoughts, list[int]()
        think = self.tokenizer.control_tokens.get(TAGS["thought"][0])
        if think is not None and answer.may_think:
            beside = [think]
        if sampler.needs_logits:
            row = output.logits()[-1]
            token = sampler.sample(row, free=free, beside=beside)
            answer.note(row, token)
        else:
            token = output.greedy()[-1]
        sampler.record(token, free=free or token in beside)
        return token

    def _end_of_thoughts(self) -> list[int]:
        """Tokens that end the thoughts, as the model itself would do it."""
        ids: list[int] = []
        for part in self.tokenizer.split_control(f"\n{TAGS['thought'][1]}\n\n"):
            ids += [part] if isinstance(part, int) else self.tokenizer.encode(part)
        return ids

    def _reuse_prefix(self, prompt: list[int], owner: str) -> int:
        """Make the cache hold the longest beginning of the prompt that is known, and nothing else.

        The prompt's last token is always computed again.
        """
        self._sync_tokens()
        wanted = prompt[:-1]
        shared = 0
        if owner == self._owner:
            shared = shared_length(as_tokens(self._tokens), as_tokens(wanted))
        entry, longer = self.saved.find(owner, wanted)
        if shared < len(self._tokens):
            self.saved.save(self._owner, self._tokens, self._sequence)
        if entry is not None and longer > shared:
            self._tokens.clear()
            self.saved.restore(entry, longer, self._sequence)
            self._tokens.extend(wanted[:longer])
            shared = longer
        if shared < len(self._tokens):
            self._sequence.truncate(shared)
            del self._tokens[shared:]
        self._owner = owner
        return shared

    def _prefill(
        self, tokens: list[int], on_prefill: Progress, cancelled: Cancelled, echo: PromptEcho | None
    ) -> Output | None:
        """Read tokens in the runtime's pieces, or all rows of them for an echo; None if cancelled in between."""
        start, done, output = len(self._tokens), 0, None
        scored = echo is not None and echo.scored
        pieces = self._score(tokens, echo) if scored and echo is not None else self._sequence.read(tokens)
        while done < len(tokens):
            on_prefill(done, len(tokens))
            if cancelled():
                return None
            try:
                output = next(pieces, None)
            except FeedInterruptedError:
                return None
            read = self._sequence.position - start
            if output is None or not done < read <= len(tokens):
                raise DeviceError(f"the runtime is at fault: it read {read} of {len(tokens)} tokens")
            self._tokens.extend(tokens[done:read])
            done = read
        on_prefill(done, len(tokens))
        return None if cancelled() else output

    def _score(self, tokens: list[int], echo: PromptEcho) -> Iterator[Output]:
        """Read a prompt with the logits after each of its tokens."""
        for start in range(0, len(tokens), _SCORED_ROWS):
            output = self._sequence.feed(tokens[start : start + _SCORED_ROWS], every_row=True)
            echo.note(output.logits())
            yield output

    def _feed(self, token: int) -> Output | None:
        """Feed the answer's newest token; None if that was interrupted."""
        try:
            output = self._sequence.feed([token])
        except FeedInterruptedError:
            return None
        self._tokens.append(token)
        return output

    def _sync_tokens(self) -> None:
        """Make list and runtime agree: an interrupt may leave the runtime a call ahead, a failure behind."""
        if self._sequence.position > len(self._tokens):
            self._sequence.truncate(len(self._tokens))
        del self._tokens[self._sequence.position :]


def _ignore(_done: int, _total: int) -> None:
    pass
