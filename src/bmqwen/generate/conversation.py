"""A chat of many turns on one session."""

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from bmqwen.errors import ContextLengthError, InputError
from bmqwen.generate import transcript
from bmqwen.generate.params import Completion, Piece, SamplingParams, template_variables
from bmqwen.generate.session import Cancelled, Progress, Session
from bmqwen.generate.template import ChatTemplate, Message
from bmqwen.generate.text_stream import tokens_showing

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RESERVE = 512  # tokens, where the context allows it


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user wrote and exactly what was shown as the answer.

    `answer_ids` show `answer`; they are the sampled tokens wherever possible: the cache holds them already.
    The model does not see its `thoughts` again.
    """

    user: str
    answer: str
    answer_ids: tuple[int, ...] = ()
    thoughts: str = ""


class Asking(TypedDict, total=False):
    """How to answer: `params` in place of the conversation's; the others as for `Session.generate`."""

    params: SamplingParams | None
    on_prefill: Progress | None
    cancelled: Cancelled | None


class Conversation:
    """Turns of a user and a model.

    When a prompt and a reserve for the answer no longer fit into the context, the oldest whole turns are left
    out of the prompt (until room for one more reserve is free, since each cut makes the model read everything
    again). The system message always stays, `on_drop` is told, and `turns` still has everything.

    A turn is kept once its answer is complete or, if the answer was interrupted, once any of it was shown;
    else the conversation is as it was before.

    Attributes:
        params: of answers that are given none.
        system: the system message, set by `set_system`.
        turns: all of them, those included that the model no longer sees.
        dropped_turns: how many of the oldest turns the model no longer sees.
        drops: whether the oldest turns are left out once the context is full; else the question is refused.
        last: the newest complete answer with its usage; None after an interrupted one.
    """

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        *,
        system: str | None = None,
        params: SamplingParams | None = None,
        reserve: int | None = None,
        on_drop: Callable[[int], None] | None = None,
    ) -> None:
        """`params` are for answers that are given none; `on_drop(count)` is told of turns that are left out.

        `reserve` is the room in tokens that an answer should find: by default max_tokens, at most a quarter
        of the context and at most 512.
        """
        self.session = session
        self.template = template
        self.params = params or SamplingParams()
        self.on_drop = on_drop
        self.drops = True
        self._reserve = reserve
        self.set_system(system)
        self.reset()

    @property
    def messages(self) -> list[Message]:
        """The whole conversation as messages."""
        return self._messages(self.turns)

    def stream(self, text: str, **asking: "Unpack[Asking]") -> Iterator[str]:
        """Yield the text of the answer to `text` as it comes, without thoughts. Raises as `reply` does."""
        with closing(self.reply(text, **asking)) as pieces:
            for piece in pieces:
                if piece.text and piece.kind == "text":
                    yield piece.text

    def reply(self, text: str, **asking: "Unpack[Asking]") -> Generator[Piece, None, Completion]:
        """Answer `text` as a new turn, from the first `next` on.

        Raises:
            InputError: `text` is empty or blank, the template refuses it, or it cannot turn thinking on or off.
            ContextLengthError: it does not fit, even without any older turn.
            DeviceError: the runtime failed.
        """
        return self._answer(self.turns, text, **asking)

    def regenerate(self, **asking: "Unpack[Asking]") -> Generator[Piece, None, Completion]:
        """Answer the last turn's text again, in place of its answer. Raises InputError without a turn."""
        if not self.turns:
            raise InputError("there is no answer yet that could be given again")
        return self._answer(self.turns[:-1], self.turns[-1].user, **asking)

    def edit(
        self, turn_index: int, text: str, **asking: "Unpack[Asking]"
    ) -> Generator[Piece, None, Completion]:
        """Put `text` in place of what the user wrote in a turn (from 0), forget all after it, and answer.

        Raises InputError for a turn that does not exist; else as `reply`.
        """
        count = len(self.turns)
        if not 0 <= turn_index < count:
            raise InputError(f"there is no turn {turn_index}; the conversation has {count}, counted from 0")
        return self._answer(self.turns[:turn_index], text, **asking)

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns: tuple[Turn, ...] = ()
        self.dropped_turns = 0
        self.last: Completion | None = None

    def set_system(self, text: str | None) -> None:
        """Change the system message; None or blank for none of our own (a template may have a default)."""
        self.system = text if text and text.strip() else None

    def save(self, path: str | Path) -> None:
        """Write the conversation as JSON. Raises StorageError if it cannot be written."""
        turns = [(turn.user, turn.answer, turn.thoughts) for turn in self.turns]
        transcript.write(Path(path), transcript.Transcript(self.system, turns, self.dropped_turns))

    def load(self, path: str | Path) -> None:
        """Take over a saved conversation in place of this one.

        Raises InputError for a file that `save` has not written or that was changed since.
        """
        saved = transcript.read(Path(path))
        self.set_system(saved.system)
        self.turns = tuple(Turn(user, answer, thoughts=thoughts) for user, answer, thoughts in saved.turns)
        self.dropped_turns, self.last = saved.dropped, None

    def _answer(
        self,
        before: tuple[Turn, ...],
        text: str,
        params: SamplingParams | None = None,
        on_prefill: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generator[Piece, None, Completion]:
        if not text.strip():
            raise InputError("the message is empty; write something")
        params = params or self.params
        if params.enable_thinking is not None and not self.template.can_switch_thinking:
            raise InputError(
                "this model's chat template cannot turn thinking on or off: leave enable_thinking out "
                "(/set enable_thinking none)"
            )
        params = replace(params, thoughts=self.template.thinks)
        kept_dropped = min(self.dropped_turns, len(before))
        dropped, prompt = self._fit(before, text, kept_dropped, params)
        if dropped > kept_dropped and self.on_drop is not None:
            self.on_drop(dropped - kept_dropped)
        shown: list[Piece] = []
        pieces = self.session.generate(prompt, params, on_prefill=on_prefill, cancelled=cancelled)
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    completion: Completion = end.value
                    break
                shown.append(piece)
                yield piece
        except BaseException:
            pieces.close()
            self.last = None
            answer, thoughts = (
                "".join(p.text for p in shown if p.kind == kind) for kind in ("text", "thought")
            )
            if answer:
                # Where the answer begins among the tokens is known only of one that ended.
                sampled = () if thoughts else self.session.tokens[len(prompt) :]
                self._keep(before, dropped, Turn(text, answer, sampled, thoughts))
            raise
        self.last = completion
        if completion.text or completion.finish_reason != "cancelled":
            self._keep(
                before, dropped, Turn(text, completion.text, completion.answer_ids, completion.thoughts)
            )
        return completion

    def _keep(self, before: tuple[Turn, ...], dropped: int, turn: Turn) -> None:
        """Keep a turn, whose tokens may show more or less than its answer."""
        ids = tokens_showing(self.session.tokenizer, turn.answer_ids, turn.answer)
        self.turns, self.dropped_turns = (*before, replace(turn, answer_ids=tuple(ids))), dropped

    def _messages(self, turns: Sequence[Turn], text: str | None = None) -> list[Message]:
        messages = [] if self.system is None else [Message("system", self.system)]
        for turn in turns:
            messages += [Message("user", turn.user), Message("assistant", turn.answer, turn.answer_ids)]
        return messages if text is None else [*messages, Message("user", text)]

    def _fit(
        self, turns: tuple[Turn, ...], text: str, dropped: int, params: SamplingParams
    ) -> tuple[int, list[int]]:
        """Return how many of the oldest turns to leave out, at least `dropped`, and the prompt's token ids."""

        def prompt_without(count: int) -> list[int]:
            messages = self._messages(turns[count:], text)
            return self.template.encode(
                messages, self.session.tokenizer, variables=template_variables(params)
            )

        context = self.session.runtime.context_length
        reserve = self._room(params)
        prompt = prompt_without(dropped)
        if len(prompt) + reserve <= context or (
            not self.drops and len(prompt) <= self.session.longest_prompt
        ):
            return dropped, prompt
        shortest = prompt if dropped == len(turns) else prompt_without(len(turns))
        if len(shortest) > self.session.longest_prompt:
            hint = "shorten the message" + ("" if self.system is None else " or the system message")
            raise ContextLengthError(self.session.longest_prompt, len(shortest), hint)
        if not self.drops:
            hint = "shorten the message, or let the oldest turns be left out"
            raise ContextLengthError(self.session.longest_prompt, len(prompt), hint)
        target = context - (2 * reserve if len(shortest) + 2 * reserve <= context else reserve)
        fewest = bisect_left(
            range(len(turns)), True, lo=dropped, key=lambda count: len(prompt_without(count)) <= target
        )
        return fewest, prompt_without(fewest)

    def _room(self, params: SamplingParams) -> int:
        if self._reserve is not None:
            return self._reserve
        room = max(1, min(_RESERVE, self.session.runtime.context_length // 4))
        return room if params.max_tokens is None else min(room, params.max_tokens)
