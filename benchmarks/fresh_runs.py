"""Answers of an engine that never heard anything else, to compare a busy server's with.

A prompt that is read at once and one that grew turn by turn are not equal to the last bit in the K/V cache: the CPU
engine rounds what it multiplies to 8 bit, and a row that was decoded is rounded a little differently from one that was
read. Where two tokens are nearly as likely, the answers part there. Both are runs of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bmqwen.engine import Engine
from bmqwen.generate.params import Completion, SamplingParams, TokenLogprob
from bmqwen.generate.template import Message
from bmqwen.generate.text_stream import tokens_showing
from traffic import Exchange, Said

# Of the natural logarithm of two tokens' probabilities: so close, rounding may decide.
TIE = 1e-3


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many answers were compared, how many differ, and at how many a tie may have gone the other way."""

    compared: int
    ties: int
    wrong: tuple[Exchange, ...]


class FreshRuns:
    """A bare engine whose cache is emptied before each answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[Said, int], Completion] = {}
        self._limits: dict[Said, int] = {}

    def compare(self, exchanges: Sequence[Exchange]) -> Comparison:
        """Each finished answer with a run of its own."""
        answered = [exchange for exchange in exchanges if exchange.answer is not None]
        self._limits |= {
            (*exchange.messages, ("assistant", exchange.answer or "")): exchange.max_tokens
            for exchange in answered
        }
        different = [exchange for exchange in answered if not self.same(exchange)]
        ties = [exchange for exchange in different if self._tied(exchange)]
        return Comparison(
            len(answered), len(ties), tuple(exchange for exchange in different if exchange not in ties)
        )

    def same(self, exchange: Exchange) -> bool:
        """Whether text and end of an answer are those of a run of its own: of the whole prompt, or turn by turn.

        A server that had to make room for others reads everything again at any of the turns.
        """
        served = (exchange.answer, exchange.finish)
        turns = [place for place, (role, _) in enumerate(exchange.messages) if role == "user"]
        return any(
            (run.text, run.finish_reason) == served
            for run in (
                self.replayed(exchange.messages, exchange.max_tokens, turn) for turn in reversed(turns)
            )
        )

    def answer(self, messages: Said, max_tokens: int) -> Completion:
        """A greedy answer from an empty cache."""
        key = (messages, max_tokens)
        if key not in self._known:
            self._known[key] = self._run(self._prompt(messages), SamplingParams(max_tokens=max_tokens))
        return self._known[key]

    def replayed(self, messages: Said, max_tokens: int, first: int = 0) -> Completion:
        """The same, with the turns from message `first` on answered one after the other."""
        if first == len(messages) - 1:
            return self.answer(messages, max_tokens)
        self._engine.session.reset()
        for place, (role, _) in enumerate(messages):
            if role == "user" and place >= first:
                turn = messages[: place + 1]
                limit = self._limits.get(messages[: place + 2], max_tokens)
                run = self._run(self._prompt(turn), SamplingParams(max_tokens=limit), fresh=False)
        return run

    def _tied(self, exchange: Exchange) -> bool:
        """Whether the answer leaves its own run where two tokens are equally likely."""
        engine, answer = self._engine, exchange.answer or ""
        prompt = self._prompt(exchange.messages)
        own = self.answer(exchange.messages, exchange.max_tokens).token_ids
        other = engine.tokenizer.encode(answer)
        place = next(
            (i for i, (left, right) in enumerate(zip(own, other, strict=False)) if left != right),
            min(len(own), len(other)),
        )
        run = self._run([*prompt, *own[:place]], SamplingParams(max_tokens=1, logprobs=2))
        top = run.logprobs[0].top if run.logprobs else ()
        return len(top) == 2 and top[0].logprob - top[1].logprob < TIE

    def _prompt(self, messages: Said) -> list[int]:
        """Token ids; earlier answers with the tokens that were sampled for them, as far as a run of ours knows them."""
        chat = []
        for place, (role, text) in enumerate(messages):
            ids: Sequence[int] = ()
            if role == "assistant":
                runs = [run for (before, _), run in self._known.items() if before == messages[:place]]
                ids = next((run.token_ids for run in runs if run.text == text), ())
                ids = tokens_showing(self._engine.tokenizer, ids, text) if ids else ()
            chat.append(Message(role, text, tuple(ids)))  # type: ignore[arg-type]
        return self._engine.template.encode(chat, self._engine.tokenizer)

    def _run(self, prompt: list[int], params: SamplingParams, *, fresh: bool = True) -> Completion:
        if fresh:
            self._engine.session.reset()
        pieces = self._engine.session.generate(prompt, params)
        logprobs: list[TokenLogprob] = []
        while True:
            try:
                logprobs.extend(next(pieces).logprobs)
            except StopIteration as end:  # noqa: PERF203  (what a generator returns comes with it)
                completion: Completion = end.value
                return replace(completion, logprobs=(*logprobs, *completion.logprobs))
