"""One answer on its way: what it wants fed next, and the text that comes of it."""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import NamedTuple

from bmqwen.errors import BmqwenError
from bmqwen.generate.answer_parts import TAGS
from bmqwen.generate.call_grammar import answer_grammar
from bmqwen.generate.drafts import Drafts, Guesser
from bmqwen.generate.echo import PromptEcho
from bmqwen.generate.grammar import GrammarMaker
from bmqwen.generate.params import Completion, FinishReason, Piece, SamplingParams, Usage
from bmqwen.generate.sampler import Sampler, check_logits
from bmqwen.generate.slot import Slot
from bmqwen.generate.suffix_index import SuffixIndex
from bmqwen.generate.text_stream import AnswerText
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Output

_numbers = count()
# In logits. Where steps of several rows round differently, a token counts only if it leads by more than rounding
# changes (0.4 at most, in the demo model); any closer choice is left to a step of one row.
_CLEAR_LEAD = 1.0


class Wanted(NamedTuple):
    """Tokens that a generation wants fed behind those of its slot.

    Attributes:
        reading: they are a prompt's: as many of the first of them as suits the step.
        every_row: the results after each of them are wanted.
        greedy: of the results nothing is wanted but the most likely tokens.
    """

    tokens: Sequence[int]
    reading: bool = False
    every_row: bool = False
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Fed:
    """The first `count` tokens of what was wanted were fed; without `output` the generation was cancelled instead."""

    output: Output | None
    count: int = 0


Steps = Generator[Wanted, Fed, None]


@dataclass(eq=False, slots=True)
class Generation:
    """An answer to a prompt.

    Attributes:
        row_costs: what its next step may cost; that of one row alone for an answer without drafts.
        owner: whose cached tokens it may use.
        earlier: answers that this owner got before.
        guesser: a smaller model, while there is time for it.
        cancelled: set to have it end before the next step, with the finish reason "cancelled".
        slot: where it is computed; None while it waits for one.
        wanted: what it wants fed; None before it has a slot, and at its end.
        passed: steps in which other prompts were read before its own.
        read, to_read: tokens of the prompt that were read, and those that the cache did not have.
        pieces: text that nobody took yet.
        completion: of a complete answer.
        error: of one that failed by itself.
    """

    prompt: list[int]
    params: SamplingParams
    tokenizer: Tokenizer
    grammars: GrammarMaker
    vocab_size: int
    context_length: int
    row_costs: "Callable[[Generation], Mapping[int, float]]"
    owner: str = ""
    earlier: SuffixIndex | None = None
    guesser: Callable[[], Guesser | None] = lambda: None
    clock: Callable[[], float] = time.perf_counter
    number: int = field(default_factory=lambda: next(_numbers))
    cancelled: bool = False
    slot: Slot | None = None
    wanted: Wanted | None = None
    passed: int = 0
    cached: int = 0
    read: int = 0
    pieces: deque[Piece] = field(default_factory=deque)
    completion: Completion | None = None
    error: BmqwenError | None = None
    _start: float = field(init=False)
    _steps: Steps | None = None

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def over(self) -> bool:
        """Whether nothing follows but the pieces that nobody took yet."""
        return self.completion is not None or self.error is not None

    @property
    def reading(self) -> bool:
        """Whether its prompt is being read."""
        return self.wanted is not None and self.wanted.reading

    @property
    def to_read(self) -> int:
        """Tokens of the prompt that were not cached."""
        return len(self.prompt) - self.cached

    @property
    def reusable(self) -> list[int]:
        """What of the prompt may come from a cache: its last token, or each that is scored, is computed again."""
        scored = self.params.echo and self.params.logprobs is not None
        return [] if scored else self.prompt[:-1]

    def begin(self, slot: Slot | None, cached: int) -> None:
        """Start in a slot that has the first `cached` tokens of the prompt; without one, to be cancelled."""
        self.slot, self.cached = slot, cached
        if slot is not None:
            slot.busy = True
        self._steps = self._run()
        self._go_on(lambda steps: next(steps))

    def advance(self, fed: Fed) -> None:
        """Take what a step computed, and say what is wanted next. The slot has noted the tokens already."""
        self.read += fed.count if self.reading else 0
        self._go_on(lambda steps: steps.send(fed))

    def end(self) -> None:
        """Leave the slot, at any time."""
        if self._steps is not None:
            self._steps.close()
            self._steps = self.wanted = None
            if self.slot is not None:
                self.slot.busy = False

    def _go_on(self, step: Callable[[Steps], Wanted]) -> None:
        if self._steps is None:
            return
        try:
            self.wanted = step(self._steps)
        except StopIteration:
            self.end()
        except BmqwenError as error:
            self.error = error
            self.end()

    def _run(self) -> Steps:
        if self.params.pool is not None:
            yield from self._pool(self.params.pool)
            return
        grammar = answer_grammar(self.params, self.grammars)
        sampler = Sampler(self.params, self.vocab_size, self.prompt, grammar)
        answer = AnswerText(self.tokenizer, self.params, self.prompt)
        echo = PromptEcho(self.prompt, self.params, self.tokenizer) if self.params.echo else None
        stop_ids = self.tokenizer.stop_ids.union(self.params.stop_ids)
        room = self.context_length - len(self.prompt)
        limit = room if self.params.max_tokens is None else min(room, self.params.max_tokens)
        output = yield from self._read(echo, greedy=not sampler.needs_logits)
        first = last = None
        sampled = 0
        closing: deque[int] = deque()  # what ends the thoughts in the model's place
        finish: FinishReason | None = None
        drafts = Drafts(self.prompt, partial(self.row_costs, self), earlier=self.earlier, model=self.guesser)
        newest, draft = 0, list[int]()  # the tokens that a step has rows for, but for the prompt's
        if output is not None and echo is not None:
            shown = echo.piece()
            answer.begin_with(shown)
            self.pieces.append(shown)
        if output is not None and limit == 0:
            output, finish = None, "length"
        while output is not None:
            kept = (
                len(self.prompt) + sampled
            )  # tokens of the slot that are the answer's: the step's first row is
            chosen: list[int] = []
            close = False
            for row, guess in enumerate([*draft, None]):
                if closing:
                    token = closing.popleft()
                    sampler.record(token, free=True)
                else:
                    found = self._choose(output, row if draft else -1, sampler, answer, alone=not draft)
                    if close := found is None:
                        break
                    token = found
                last = self.clock()
                first = last if first is None else first
                sampled += 1
                chosen.append(token)
                if token in stop_ids:
                    finish = "stop"
                    break
                self.pieces.extend(answer.push(token))
                if answer.stopped:
                    finish = "stop"
                    break
                if sampled == limit or answer.late(last - first):
                    finish = "length"
                    break
                spent = self.params.thinking_budget is not None and sampled >= self.params.thinking_budget
                if spent and answer.in_thoughts and not closing:
                    closing.extend(self._end_of_thoughts())
                if token != guess:
                    break
                kept += 1
            drafts.accept(chosen)
            if draft:
                # Of too close a choice the token before it is fed once more, by itself.
                self._forget(kept - close)
            if finish is not None:
                break
            draft = [] if close else drafts.propose(limit - sampled - 1)
            newest = chosen[-1] if chosen else newest
            # A call that a draft begins holds the rows behind it to its grammar.
            may_change = bool(draft) and (self._rounds_by_rows or grammar is not None)
            greedy = not (sampler.needs_logits or may_change)
            output = (yield Wanted([newest, *draft], every_row=bool(draft), greedy=greedy)).output
        finish = finish or "cancelled"
        self.pieces.extend(answer.finish(complete=finish == "stop" and not answer.stopped))
        if self.earlier is not None:
            self.earlier.add_text(answer.ids)
        if first is None or last is None:  # cancelled before the first token
            first = last = self.clock()
        usage = Usage(
            len(self.prompt),
            self.cached,
            sampled,
            first - self._start,
            last - first,
            answer.thought_tokens,
            drafts.proposed,
            drafts.accepted,
        )
        self.completion = Completion(
            answer.text(),
            tuple(answer.ids),
            finish,
            usage,
            answer.logprobs,
            answer.text("thought"),
            answer.stop,
        )

    def _pool(self, tokens: tuple[int, ...]) -> Steps:
        """Read the prompt, and complete with what follows it."""
        output, row = (yield from self._read(None)), b""
        if output is not None:
            values = output.logits()[-1]
            check_logits(values)
            row = (values[list(tokens)] if tokens else values).astype("<f4").tobytes()
        usage = Usage(len(self.prompt), self.cached, 0, self.clock() - self._start, 0.0)
        self.completion = Completion("", (), "cancelled" if output is None else "stop", usage, row=row)

    def _read(
        self, echo: PromptEcho | None, *, greedy: bool = False
    ) -> Generator[Wanted, Fed, Output | None]:
        """Read what of the prompt is not cached; None if cancelled in between."""
        rest, scored = self.prompt[self.cached :], echo is not None and echo.scored
        output = None
        while rest:
            fed = yield Wanted(rest, reading=True, every_row=scored, greedy=greedy and not scored)
            output = fed.output
            if output is None:
                return None
            if scored and echo is not None:
                echo.note(output.logits())
            rest = rest[fed.count :]
        return output

    def _forget(self, count: int) -> None:
        """Leave only the first `count` tokens in the slot."""
        if self.slot is not None:
            self.slot.truncate(count)

    def _choose(
        self, output: Output, row: int, sampler: Sampler, answer: AnswerText, *, alone: bool
    ) -> int | None:
        """Choose the token after a row; None if that is too close a choice for a row that was not computed alone."""
        # A JSON schema is the answer's, not the thoughts'.
        free, beside = answer.in_thoughts, list[int]()
        if answer.may_think and (think := self.tokenizer.control_tokens.get(TAGS["thought"][0])) is not None:
            beside = [think]
        unsure = not alone and self._rounds_by_rows
        if sampler.needs_logits or unsure:
            logits = output.logits()[row]
            lead = _CLEAR_LEAD if unsure else 0.0
            clear = sampler.sample_clearly(logits, lead, free=free, beside=beside)
            if clear is None:
                return None
            token = clear
            answer.note(logits, token)
        else:
            token = output.greedy()[row]
        sampler.record(token, free=free or token in beside)
        return token

    @property
    def _rounds_by_rows(self) -> bool:
        return self.slot is not None and self.slot.sequence.runtime.rounds_by_rows

    def _end_of_thoughts(self) -> list[int]:
        """Tokens that end the thoughts, as the model itself would do it."""
        ids: list[int] = []
        for part in self.tokenizer.split_control(f"\n{TAGS['thought'][1]}\n\n"):
            ids += [part] if isinstance(part, int) else self.tokenizer.encode(part)
        return ids
