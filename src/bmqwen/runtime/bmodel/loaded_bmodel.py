"""What every runtime of a bmodel has: the device that holds it, its limits, what it asked of the device."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import DeviceError, FeedInterruptedError, InputError
from bmqwen.runtime.base import Feed, Output, SavedCache, check_saved, check_truncate, chosen_context
from bmqwen.runtime.bmodel.device_nets import Counters


class Opened(Protocol):
    """An open device, or several, with the bmodels of a bundle; members are as of `DeviceBackend`."""

    @property
    def chip(self) -> str: ...
    @property
    def library(self) -> str: ...
    def memory_used(self) -> int | None: ...
    def close(self) -> None: ...


class CachedNets(Protocol):
    """The nets of one device or several with their K/V cache; members are as of `DeviceNets`."""

    @property
    def context(self) -> int: ...
    @property
    def counters(self) -> Counters: ...
    def cache_shape(self, count: int) -> tuple[int, ...]: ...
    def read_rows(self, start: int, count: int) -> NDArray[Any]: ...
    def write_rows(self, start: int, rows: NDArray[Any]) -> None: ...


Device = TypeVar("Device", bound=Opened)
Nets = TypeVar("Nets", bound=CachedNets)


class DeviceOutput:
    """What a step computed for a Feed; as a rule on the device until it is asked for."""

    def __init__(
        self,
        runtime: "LoadedBmodel[Nets]",
        token_ids: Callable[[], list[int]],
        logits: Callable[[], NDArray[np.float32]],
        *,
        lasting: bool = False,
    ) -> None:
        """`token_ids` and `logits` read them from the device; `lasting`: also when other tokens were fed since."""
        self._runtime, self._token_ids, self._logits = runtime, token_ids, logits
        self._serial = None if lasting else runtime._serial

    def greedy(self) -> list[int]:
        self._check()
        tokens = self._token_ids()
        for token in tokens:
            if not 0 <= token < self._runtime.vocab_size:
                raise DeviceError(
                    f"{self._runtime.name} computed the token {token}, which the model does not have"
                )
        return tokens

    def logits(self) -> NDArray[np.float32]:
        """Logits, float32 [rows, vocab]. Raises DeviceError where the bmodel gives none."""
        self._check()
        return self._logits()

    def _check(self) -> None:
        if self._serial not in (None, self._runtime._serial):
            raise InputError("this output is no longer there: more tokens were fed since")


class LoadedBmodel(ABC, Generic[Nets]):
    """A bundle's bmodel on a device, a `Runtime` of one sequence but for how its nets are fed.

    `chip` is the chip's name, `library` what opened the device, for people.
    """

    def __init__(
        self,
        bundle: Bundle,
        open_device: Callable[[], Device],
        context_length: int | None,
        find_nets: Callable[[Device], Nets],
        sequences: int = 1,
    ) -> None:
        """Open the device, load the bmodel and find its nets. Raises what `StepRuntime` does."""
        backend = open_device()
        self._backend: Opened = backend
        self.chip, self.library = backend.chip, backend.library
        self.name = f"{self.chip}, {backend}, {self.library}"
        self.vocab_size = bundle.config.vocab_size
        self.sequences = sequences
        self.rounds_by_rows = False
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._serial = 0
        self._interrupted = False
        try:
            self._device_nets = find_nets(backend)
            self.context_length = chosen_context(context_length, self._device_nets.context, "the bundle's")
        except BaseException:
            backend.close()
            raise

    @property
    def counters(self) -> Counters:
        """Calls and bytes since loading, as they are now."""
        return replace(self._device_nets.counters)

    @property
    def memory_used(self) -> int | None:
        return self._backend.memory_used()

    def position(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    def truncate(self, sequence: int, position: int) -> None:
        check_truncate(self, sequence, position)
        del self._tokens[sequence][position:]

    def save(self, sequence: int) -> SavedCache:
        """Copy the rows in use from the device, as that has them: [2 * layers, position, ...]."""
        tokens = tuple(self._tokens[sequence])
        return SavedCache(len(tokens), self._device_nets.read_rows(0, len(tokens)), tokens)

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        check_saved(saved, position, self._device_nets.cache_shape(saved.position))
        self._serial += 1
        self._tokens[sequence].clear()
        self._device_nets.write_rows(0, saved.rows[:, :position])
        self._tokens[sequence].extend(saved.tokens[:position])

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        """Several rows are as many launches, so they never pay."""
        del sequence, beside
        return {1: 1.0}

    def interrupt(self) -> None:
        """End a step between two launches."""
        self._interrupted = True

    @abstractmethod
    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int: ...
    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        """Never: there is no other sequence."""
        del sequence, count, beside
        return False

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        """One: results lie where the next launch leaves its own."""
        del answers, reading
        return 1

    @abstractmethod
    def step(self, feeds: Sequence[Feed]) -> list[Output]: ...
    def close(self) -> None:
        self._backend.close()

    def _begin_step(self) -> None:
        """What was computed before is no longer to be had."""
        self._serial += 1
        self._interrupted = False

    def _check_interrupt(self) -> None:
        if self._interrupted:
            raise FeedInterruptedError("reading was interrupted")
