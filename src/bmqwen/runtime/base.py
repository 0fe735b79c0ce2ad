"""The protocol that every runtime keeps: CPU, chip and simulator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ContextLengthError, InputError


class Output(Protocol):
    """What one `feed` computed. On a chip nothing is copied before it is asked for."""

    def greedy(self) -> int:
        """The most likely token after the last one fed (the lowest id among equals)."""

    def logits(self) -> NDArray[np.float32]:
        """Logits, float32 [rows, vocab_size]: one row, or one for each token fed with `every_row`."""


@dataclass(frozen=True, slots=True)
class SavedCache:
    """A KV cache's rows on the host: one runtime saved them, and only one of its kind and model can take them back.

    Attributes:
        position: tokens in it.
        rows: the runtime's own layout and type; never changed after it was saved.
        tokens: the tokens themselves, where the runtime keeps them.
    """

    position: int
    rows: NDArray[Any]
    tokens: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


@runtime_checkable
class Runtime(Protocol):
    """A loaded model with one KV cache.

    `position` tokens are in the cache; `feed` appends. Not thread-safe: one caller at a time.
    """

    @property
    def name(self) -> str:
        """What runs the model, for people: "CPU, ONNX Runtime 1.23, 2 threads"."""

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits (at least the tokenizer's vocabulary)."""

    @property
    def context_length(self) -> int:
        """Most tokens that the cache can hold."""

    @property
    def position(self) -> int:
        """Tokens in the cache now."""

    def read(self, tokens: Sequence[int]) -> Iterator[Output]:
        """Append a prompt in the pieces that cost least, one for each Output; `position` grows with them.

        Raises what `feed` raises; the pieces before stay in the cache.
        """

    def feed(self, tokens: Sequence[int], *, every_row: bool = False) -> Output:
        """Append tokens to the cache and compute what follows them: one at a time, an answer.

        The Output is valid until the next call. A feed that raises leaves `position` as it was.

        Raises:
            ContextLengthError: position + len(tokens) exceeds context_length.
            InputError: no tokens, or a token id outside of [0, vocab_size).
            DeviceError: the device failed.
        """

    def truncate(self, position: int) -> None:
        """Forget all tokens from `position` on. Raises InputError unless 0 <= position <= self.position."""

    def save_cache(self) -> SavedCache:
        """Copy what is cached to the host; the cache stays as it is. Raises DeviceError if the device failed."""

    def restore_cache(self, saved: SavedCache, position: int) -> None:
        """Put the first `position` tokens of a saved cache in place of all that is cached; `saved` stays usable.

        Raises:
            InputError: it has fewer tokens, or is of another model.
            DeviceError: the device failed; the cache is empty then.
        """

    def interrupt(self) -> None:
        """From another thread: a feed under way raises FeedInterruptedError soon. Without one, nothing happens."""

    def close(self) -> None:
        """Free everything. May be called twice."""


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

    def greedy(self) -> int:
        return int(self._rows[-1].argmax())

    def logits(self) -> NDArray[np.float32]:
        return self._rows


def check_feed(runtime: Runtime, tokens: Sequence[int]) -> None:
    """Raise what `Runtime.feed` raises for tokens that cannot be fed."""
    if not len(tokens):
        raise InputError("no tokens to feed")
    if min(tokens) < 0 or max(tokens) >= runtime.vocab_size:
        raise InputError(f"token ids must be within 0 and {runtime.vocab_size - 1}")
    total = runtime.position + len(tokens)
    if total > runtime.context_length:
        raise ContextLengthError(runtime.context_length, total)


def check_truncate(runtime: Runtime, position: int) -> None:
    """Raise what `Runtime.truncate` raises for a position that cannot be gone back to."""
    if not 0 <= position <= runtime.position:
        raise InputError(f"cannot truncate to position {position}: {runtime.position} tokens are cached")


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
