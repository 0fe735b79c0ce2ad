"""The protocol that every runtime keeps: CPU, chip and simulator."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ContextLengthError, InputError
from bmqwen.runtime.recurrent_state import Snapshot


class Feed(NamedTuple):
    """Tokens that a step appends to one sequence.

    Attributes:
        sequence: which one, in [0, `Runtime.sequences`).
        tokens: at least one.
        every_row: results are wanted after each of them, not after the last one alone.
        prompt: the results must not depend on how much of the prompt was cached before: a runtime may compute some
            cached tokens again for that. An answer's own tokens are fed without it.
        goes_on: nobody asks for the results, since more of the prompt follows: a runtime need not compute them.
        greedy: of the results nobody asks for more than the most likely tokens: a runtime need not copy the logits.
    """

    sequence: int
    tokens: Sequence[int]
    every_row: bool = False
    prompt: bool = False
    goes_on: bool = False
    greedy: bool = False


class Output(Protocol):
    """What a step computed for one Feed: a row after its last token, or one after each with `every_row`.

    On a chip nothing is copied before it is asked for.
    """

    def greedy(self) -> list[int]:
        """The most likely token after each row (the lowest id among equals)."""

    def logits(self) -> NDArray[np.float32]:
        """Logits, float32 [rows, vocab_size]; of a model without a head, hidden states [rows, hidden_size]."""


@dataclass(frozen=True, slots=True)
class SavedCache:
    """A KV cache's rows on the host: one runtime saved them, and only one of its kind and model can take them back.

    Attributes:
        position: tokens in it.
        rows: the runtime's own layout and type; never changed after it was saved.
        tokens: the tokens themselves, where the runtime keeps them.
        states: copies of the recurrent layers' state, where there are such layers.
    """

    position: int
    rows: NDArray[Any]
    tokens: tuple[int, ...] = ()
    states: tuple[Snapshot, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + sum(state.nbytes for state in self.states)


@runtime_checkable
class Runtime(Protocol):
    """A loaded model with the KV caches of one or several sequences.

    Each sequence has its own tokens: `position(sequence)` of them are cached, and `step` appends. All sequences are
    there from the beginning, empty. Not thread-safe: one caller at a time.
    """

    @property
    def name(self) -> str:
        """What runs the model, for people: "CPU, ONNX Runtime 1.23, 2 threads"."""

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows, at least the tokenizer's: the width of a row of logits."""

    @property
    def context_length(self) -> int:
        """Most tokens that each sequence can hold."""

    @property
    def sequences(self) -> int:
        """How many sequences there are, numbered from 0."""

    def position(self, sequence: int) -> int:
        """Tokens of a sequence that are cached now."""

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens to sequences, each named once, and compute what follows them; an Output for each Feed.

        Outputs are valid until the next call; where `steps_at_once` allows several steps, always. A step that raises
        leaves every position as it was, but for a device that failed while it moved rows of sequences: those are
        empty then.

        Raises:
            ContextLengthError: position + len(tokens) exceeds context_length.
            InputError: no tokens, a token id outside of [0, vocab_size), or a sequence that is not there.
            FeedInterruptedError: `interrupt` was called meanwhile.
            DeviceError: the device failed.
        """

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        """How many of the next `count` tokens of a prompt to feed in one step so that all of them cost least.

        With `beside` so many answers get a token in the same step: it should not hold them up for more than the time of
        two steps, such as they are once all `waiting` prompts, this one among them, are answered as well.
        """

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        """What a step of so many rows of a sequence, all wanted, takes from where it is, in steps of one row.

        From few rows to many; a number between two takes as long as the greater. Where several never pay: {1: 1.0}.
        With `beside` so many other answers get a token in the same step.
        """

    @property
    def rounds_by_rows(self) -> bool:
        """Whether a row is rounded differently in a step of several, so that close choices are left to steps of one."""

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        """Tell whether so many tokens of a prompt are best read in a step of their own while others write answers.

        `beside` answers then wait for it no longer than for a token.
        """

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        """Tell how many steps to begin before the outputs of the first are asked for.

        It is 1 unless the model is on several devices, which compute a step one after another. So many groups of
        `answers` then get their next tokens soonest; when `reading`, pieces of a prompt go between their steps.
        """

    def truncate(self, sequence: int, position: int) -> None:
        """Forget a sequence's tokens from `position` on.

        A model with recurrent layers goes back to the last copy of their state that it has, and reads the tokens
        between with the next step. Raises InputError unless 0 <= position <= the sequence's own.
        """

    def save(self, sequence: int) -> SavedCache:
        """Copy what a sequence has cached to the host; it stays as it is. Raises DeviceError if the device failed."""

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        """Put the first `position` tokens of a saved cache in place of all of a sequence; `saved` stays usable.

        Any sequence of the runtime may have saved it.

        Raises:
            InputError: it has fewer tokens, or is of another model.
            DeviceError: the device failed; the sequence is empty then.
        """

    def interrupt(self) -> None:
        """From another thread: a step under way raises FeedInterruptedError soon. Without one, nothing happens."""

    def close(self) -> None:
        """Free everything. May be called twice."""


class RuntimeSequence:
    """One sequence of a runtime, for what has a use for no more than one."""

    def __init__(self, runtime: Runtime, number: int = 0) -> None:
        self.runtime, self.number = runtime, number

    @property
    def position(self) -> int:
        """Tokens cached now."""
        return self.runtime.position(self.number)

    def feed(self, tokens: Sequence[int], *, every_row: bool = False) -> Output:
        """Append tokens and compute what follows them, as `Runtime.step`."""
        (output,) = self.runtime.step([Feed(self.number, tokens, every_row)])
        return output

    def read(self, tokens: Sequence[int]) -> Iterator[Output]:
        """Append a prompt in the pieces that cost least, one for each Output; `position` grows with them.

        Only the last has results for sure. Raises what `Runtime.step` raises; the pieces before stay cached.
        """
        check_feed(self.runtime, Feed(self.number, tokens))
        done = 0
        while done < len(tokens):
            size = self.runtime.piece(self.number, len(tokens) - done)
            piece = tokens[done : done + size]
            done += size
            goes_on = done < len(tokens)
            (output,) = self.runtime.step([Feed(self.number, piece, prompt=True, goes_on=goes_on)])
            yield output

    def truncate(self, position: int) -> None:
        """Forget all tokens from `position` on."""
        self.runtime.truncate(self.number, position)

    def save(self) -> SavedCache:
        """Copy what is cached to the host."""
        return self.runtime.save(self.number)

    def restore(self, saved: SavedCache, position: int) -> None:
        """Put the first `position` tokens of a saved cache in place of all that is cached."""
        self.runtime.restore(self.number, saved, position)


@runtime_checkable
class DeviceRuntime(Protocol):
    """A Runtime whose model lies in the memory of a device."""

    @property
    def memory_used(self) -> int | None:
        """Bytes of device memory in use by all programs; None when the device does not tell."""


class HostOutput:
    """An Output whose rows, float32 [rows, vocab_size], are on the host already."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows

    def greedy(self) -> list[int]:
        return cast(list[int], self._rows.argmax(axis=1).tolist())

    def logits(self) -> NDArray[np.float32]:
        return self._rows


def check_feed(runtime: Runtime, feed: Feed) -> None:
    """Raise what `Runtime.step` raises for tokens that cannot be fed."""
    tokens, count = feed.tokens, len(feed.tokens)
    if not 0 <= feed.sequence < runtime.sequences:
        raise InputError(f"there is no sequence {feed.sequence}: the runtime has {runtime.sequences}")
    if not count:
        raise InputError("no tokens to feed")
    least, most = (tokens[0], tokens[0]) if count == 1 else (min(tokens), max(tokens))
    if least < 0 or most >= runtime.vocab_size:
        raise InputError(f"token ids must be within 0 and {runtime.vocab_size - 1}")
    total = runtime.position(feed.sequence) + count
    if total > runtime.context_length:
        raise ContextLengthError(runtime.context_length, total)


def check_step(runtime: Runtime, feeds: Sequence[Feed]) -> None:
    """Raise what `Runtime.step` raises for feeds that cannot be computed together."""
    if len({feed.sequence for feed in feeds}) < len(feeds):
        raise InputError("a step names each sequence once")
    for feed in feeds:
        check_feed(runtime, feed)


def check_truncate(runtime: Runtime, sequence: int, position: int) -> None:
    """Raise what `Runtime.truncate` raises for a position that cannot be gone back to."""
    cached = runtime.position(sequence)
    if not 0 <= position <= cached:
        raise InputError(f"cannot truncate to position {position}: {cached} tokens are cached")


def check_saved(saved: SavedCache, position: int, shape: Sequence[int]) -> None:
    """Raise InputError unless a saved cache has `position` tokens and rows of the shape that this runtime saves."""
    if not 0 <= position <= saved.position:
        raise InputError(f"cannot restore {position} tokens: the saved cache has {saved.position}")
    if saved.rows.shape != tuple(shape):
        raise InputError("the saved cache is of another model or runtime")


def chosen_context(asked: int | None, longest: int, whose: str) -> int:
    """The context length to use: the one asked for, else the longest. Raises InputError if it is out of range."""
    if asked is not None and not 1 <= asked <= longest:
        raise InputError(f"the context length must be between 1 and {whose} {longest}, not {asked}")
    return asked or longest
