"""Continuous batching: each step of the runtime is made of whatever the answers on their way want next."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from bmqwen.errors import ContextLengthError, DeviceError, InputError
from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.drafts import EarlierAnswers, Guesser
from bmqwen.generate.generation import Fed, Generation
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.slot import Slot, choose_slot
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Feed, Runtime

# Rows of logits at once: 64 of a vocabulary of 152,000 are 39 MB.
_SCORED_ROWS = 64
# Of several prompts the one that has least left is read first; a step of waiting counts as so many tokens less.
_TOKENS_A_STEP = 8


class Batcher:
    """Answers as many prompts at once as the runtime has sequences. Not thread-safe.

    Every step gives each answer its next token, and one prompt beside them its next piece, of a size that does not hold
    the answers up. Where the model is on several devices, steps of several groups of answers, and pieces of a prompt,
    go through them one behind the other. Generations wait for a free slot in their order. One that ends in any way (by
    itself, cancelled, dropped, by an exception of a step) leaves its slot usable: what was fed stays cached.
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
        """`saved` keeps conversations that others take the place of; `clock` returns seconds.

        With `drafts`, tokens that a text repeats, or with which `guesser` continues it, are checked several in a step.
        If `reproducible`, an answer does not depend on what was answered before: there are no drafts, and of a
        conversation only what was read as a prompt is taken from the cache, for that is computed in one way.
        """
        self.runtime, self.tokenizer = runtime, tokenizer
        self.saved = ConversationCache(0) if saved is None else saved
        self._clock = clock
        self._drafts, self._guesser = drafts and not reproducible, guesser
        self._reproducible = reproducible
        self._earlier = EarlierAnswers()
        self._grammars = GrammarMaker(tokenizer)
        self._slots = [Slot(runtime, number) for number in range(runtime.sequences)]
        self._waiting: list[Generation] = []
        self._running: list[Generation] = []
        # Steps begun, the oldest first: of whom they compute what.
        self._under_way: deque[list[tuple[Generation, Fed]]] = deque()
        self._uses = 0
        # Whether the step before was a prompt's alone.
        self._apart = False

    @property
    def longest_prompt(self) -> int:
        """Most tokens that a prompt may have: one less than the context, for one token of the answer."""
        return self.runtime.context_length - 1

    def add(self, prompt: Sequence[int], params: SamplingParams, owner: str = "") -> Generation:
        """Begin an answer; `step` computes it. What was cached for one `owner` is never used for another.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InputError: an empty prompt, or a wrong token id.
        """
        if not prompt:
            raise InputError("the prompt has no tokens; write something")
        if len(prompt) > self.longest_prompt:
            raise ContextLengthError(self.longest_prompt, len(prompt), "shorten it")
        vocab_size = self.runtime.vocab_size
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise InputError(f"token ids must be within 0 and {vocab_size - 1}")
        generation = Generation(
            list(prompt),
            params,
            self.tokenizer,
            self._grammars,
            vocab_size,
            self.runtime.context_length,
            self._row_costs,
            owner,
            self._earlier.of(owner),
            self._guesser_alone,
            self._clock,
        )
        self._waiting.append(generation)
        try:
            self._admit()
        except BaseException:
            self.drop(generation)
            raise
        return generation

    def step(self) -> None:
        """Compute the next tokens of all answers; of several groups, those of one.

        Raises:
            FeedInterruptedError: `Runtime.interrupt` was called; the next step goes on as if nothing had been.
            DeviceError: the runtime failed; none of the answers can go on.
        """
        for generation in [*self._running, *self._waiting]:
            if generation.cancelled:
                self._cancel(generation)
        self._admit()
        while self._begin_step():
            pass
        if self._under_way:
            for generation, fed in self._under_way.popleft():
                generation.advance(fed)
        over = [generation for generation in self._running if generation.over]
        for generation in over:
            self._running.remove(generation)
        for generation in over:
            # It fails as late as its results are read.
            if isinstance(generation.error, DeviceError):
                raise generation.error

    def _begin_step(self) -> bool:
        """Begin a step of those that have none under way, if it is time for one."""
        busy = [generation for step in self._under_way for generation, _ in step]
        ready = [generation for generation in self._running if generation not in busy]
        if not ready:
            return False
        writing = [generation for generation in ready if not generation.reading]
        readers = [generation for generation in ready if generation.reading]
        answers = sum(not generation.reading for generation in self._running)
        if len(self._under_way) >= self.runtime.steps_at_once(answers, reading=bool(readers)):
            return False
        group = self._group(answers)
        parts = [(g, len(g.wanted.tokens)) for g in writing[:group] if g.wanted]
        # A short prompt may go first, but not twice in a row.
        may_go_first = bool(parts) and not self._apart
        self._apart = False
        if reader := self._next_reader(readers):
            if may_go_first and self._reads_apart(reader, len(parts)):
                self._apart = True
                parts.clear()
            # Alone between the steps of answers it holds them up as well.
            beside = len(parts) or (group if self._under_way else 0)
            parts.append((reader, self._piece(reader, beside)))
        if not parts:
            return False
        before = [_position(generation) for generation, _ in parts]
        feeds = [_feed(generation, size) for generation, size in parts]
        outputs = self.runtime.step(feeds)
        step = []
        for (generation, size), feed, position, output in zip(parts, feeds, before, outputs, strict=True):
            read = _position(generation) - position
            if read != size:
                raise DeviceError(f"the runtime is at fault: it read {read} of {size} tokens")
            assert generation.slot is not None
            generation.slot.note(feed.tokens)
            if feed.goes_on:
                # Nobody waits for its results: the next piece may be read right behind it.
                generation.advance(Fed(output, size))
            else:
                step.append((generation, Fed(output, size)))
        self._under_way.append(step)
        return True

    def drop(self, generation: Generation) -> None:
        """End a generation without a result."""
        generation.end()
        for generations in (self._waiting, self._running):
            if generation in generations:
                generations.remove(generation)

    def put_away(self) -> None:
        """Save what all slots have cached. Raises DeviceError if the device failed."""
        for slot in self._slots:
            self.saved.save(slot.owner, slot.tokens, slot.sequence)

    def reset(self) -> None:
        """Empty all slots, and forget what was saved and what was answered."""
        for slot in self._slots:
            slot.truncate(0)
        self._earlier.clear()
        self.saved.clear()

    def _admit(self) -> None:
        """Give slots to those that wait, the first first."""
        while self._waiting:
            generation = self._waiting[0]
            slot = choose_slot(self._slots, generation.owner, generation.reusable)
            if slot is None:
                return
            self._uses += 1
            slot.used = self._uses
            others = [other for other in self._slots if other is not slot]
            cached = slot.take(generation.owner, generation.reusable, self.saved, others)
            slot.reusable = len(generation.prompt) if self._reproducible else None
            self._waiting.pop(0)
            generation.begin(slot, cached)
            if not generation.over:
                self._running.append(generation)

    def _row_costs(self, generation: Generation) -> Mapping[int, float]:
        """What a step with more rows of one answer may cost, with the rows that the others want."""
        if not self._drafts or generation.slot is None:
            return {1: 1.0}
        others = sum(not other.reading for other in self._running if other is not generation)
        beside = min(others, self._group(others + 1) - 1)
        return self.runtime.row_costs(generation.slot.sequence.number, beside)

    def _group(self, answers: int) -> int:
        """Of how many answers a step is made."""
        return -(-answers // self.runtime.steps_at_once(answers))

    def _guesser_alone(self) -> Guesser | None:
        """The smaller model, which has one text in mind: several answers would have it read them again and again."""
        return self._guesser if len(self._running) == 1 else None

    def _cancel(self, generation: Generation) -> None:
        if generation in self._waiting:
            self._waiting.remove(generation)
            generation.begin(None, 0)
        generation.advance(Fed(None))
        self._running = [other for other in self._running if other is not generation]

    def _next_reader(self, readers: Sequence[Generation]) -> Generation | None:
        """The generation whose prompt is read in the next step."""
        chosen = min(readers, key=lambda g: g.to_read - g.read - _TOKENS_A_STEP * g.passed, default=None)
        for generation in readers:
            generation.passed += generation is not chosen
        return chosen

    def _reads_apart(self, generation: Generation, beside: int) -> bool:
        """Whether what is left of a prompt is read in a step of its own: it is known sooner then."""
        assert generation.slot is not None
        assert generation.wanted is not None
        if generation.wanted.every_row:
            return False
        left = len(generation.wanted.tokens)
        return self.runtime.reads_apart(generation.slot.sequence.number, left, beside)

    def _piece(self, generation: Generation, beside: int) -> int:
        """How much of a prompt to read in the next step."""
        assert generation.slot is not None
        assert generation.wanted is not None
        left = len(generation.wanted.tokens)
        waiting = sum(other.reading for other in self._running)
        size = self.runtime.piece(generation.slot.sequence.number, left, beside, waiting)
        return min(size, _SCORED_ROWS) if generation.wanted.every_row else size


def _position(generation: Generation) -> int:
    assert generation.slot is not None
    return generation.slot.sequence.position


def _feed(generation: Generation, size: int) -> Feed:
    slot, wanted = generation.slot, generation.wanted
    assert slot is not None
    assert wanted is not None
    prompt = wanted.reading and not wanted.every_row
    goes_on = prompt and size < len(wanted.tokens)
    return Feed(slot.sequence.number, wanted.tokens[:size], wanted.every_row, prompt, goes_on, wanted.greedy)
