"""A model in parts, each on a device of its own, used like one: the host hands rows from part to part."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle, BundlePart
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.runtime.bmodel.backend import DeviceBackend
from bmqwen.runtime.bmodel.device_nets import Counters
from bmqwen.runtime.bmodel.step_stages import Results, Segment, StepStages

T = TypeVar("T")


class Fetched(NamedTuple):
    """What the host asked for of the last part's results.

    Attributes:
        tokens: the most likely token of each result, if any is asked for without its logits; else empty.
        logits: float32 [count, vocab] of those asked for, by the first of them.
    """

    tokens: list[int]
    logits: dict[int, NDArray[np.float32]]


class PartNets(Protocol):
    """The nets of a part on its device, here or in another process; methods of `StepStages` are as there.

    Attributes:
        chip, library, device: as of `DeviceBackend`; its `str`.
    """

    chip: str
    library: str
    device: str

    @property
    def counters(self) -> Counters: ...
    def run(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> NDArray[np.uint16]:
        """Launch as `StepStages.launch`; returns the hidden rows for the next part."""

    def finish(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> Fetched:
        """Launch the last part; returns what the segments ask for."""

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None: ...
    def read_rows(self, start: int, count: int) -> NDArray[Any]: ...
    def write_rows(self, start: int, rows: NDArray[Any]) -> None: ...
    def memory_used(self) -> int | None: ...
    def abort(self) -> None:
        """From another thread, before `close`: end a call under way if it would take long."""

    def close(self) -> None: ...


class LocalPart:
    """The `PartNets` of a device that this process has opened."""

    def __init__(self, backend: DeviceBackend, nets: StepNets, config: ModelConfig) -> None:
        """Find the stages of a part in a backend's bmodel. Raises what `StepStages` does, having closed the backend."""
        self._backend = backend
        self.chip, self.library, self.device = backend.chip, backend.library, str(backend)
        try:
            self._stages = StepStages(backend, nets, config)
        except BaseException:
            backend.close()
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stages, name)

    def run(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> NDArray[np.uint16]:
        self._stages.launch(shape, row, states, segments)
        return self._stages.hidden(shape, len(states))

    def finish(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> Fetched:
        results = self._stages.launch(shape, row, states, segments)
        logits, first = {}, 0
        for segment in segments:
            if segment.asked == "logits" and segment.results:
                logits[first] = results.logits(first, segment.results)
            first += segment.results
        wanted = any(segment.asked == "tokens" and segment.results for segment in segments)
        return Fetched(results.token_ids(0, first) if wanted else [], logits)

    def memory_used(self) -> int | None:
        return self._backend.memory_used()

    def abort(self) -> None:
        """A launch is over soon."""

    def close(self) -> None:
        self._backend.close()


class _HostResults:
    """The `Results` of a launch that goes through all parts; they come to the host by themselves."""

    lasting = True

    def __init__(self, fetched: Callable[[], Fetched]) -> None:
        self._fetched = fetched

    def token_ids(self, first: int, count: int) -> list[int]:
        tokens = self._fetched().tokens[first : first + count]
        # The host finds the same one: the lowest id among equals.
        return tokens or [int(row.argmax()) for row in self.logits(first, count)]

    def logits(self, first: int, count: int) -> NDArray[np.float32]:
        """As of `Results`. Raises InputError for those that were not asked for."""
        found = self._fetched().logits.get(first)
        if found is None:
            raise InputError("these logits were not read: the step was begun without asking for them")
        return found[:count]

    def keep(self) -> None:
        """They last."""


class PartChain:
    """What `StepStages` and its backend are of one device, of several: every launch goes through all parts.

    Each part has a thread, which does what it is told in order. So while one part computes a launch, the part before it
    computes the next: `launch` returns before that is done, as on one device.

    Attributes:
        chip, library: as of `DeviceBackend`; `str` names the devices.
        context: most tokens of a sequence.
    """

    def __init__(self, parts: Sequence[PartNets], nets: StepNets, configs: Sequence[ModelConfig]) -> None:
        """Take over the parts of the configurations, in the order of their layers; they are closed with it."""
        self._parts = parts
        self._threads = [ThreadPoolExecutor(1, f"part-{n}") for n in range(1, len(parts) + 1)]
        # Launches on their way, the oldest first.
        self._under_way: deque[Future[Fetched]] = deque()
        self._failure: Exception | None = None
        self.chip, self.library, self.context = parts[0].chip, parts[0].library, nets.context
        self._row = configs[0].num_key_value_heads, configs[0].head_dim
        # A layer has keys and values.
        self._areas = [2 * config.num_hidden_layers for config in configs]

    def __str__(self) -> str:
        return " and ".join(part.device for part in self._parts)

    @property
    def counters(self) -> Counters:
        """Calls and bytes of all devices since loading; rows handed over count as read and as written."""
        each: list[Counters] = self._all(lambda part: part.counters)
        return reduce(add, each)

    def launch(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> Results:
        """As `StepStages.launch`. Raises DeviceError also for an earlier launch that failed."""
        # The rows that are seen may have moved when a part comes to look.
        fixed = [segment._replace(seen=segment.seen.copy()) for segment in segments]
        handed: Future[NDArray[np.uint16]] = Future()
        handed.set_result(states)
        for thread, part in zip(self._threads[:-1], self._parts[:-1], strict=True):
            handed = thread.submit(_handing_on, part.run, shape, row, handed, fixed)
        fetched = self._threads[-1].submit(_handing_on, self._parts[-1].finish, shape, row, handed, fixed)
        self._under_way.append(fetched)
        self._settle(len(self._parts))
        return _HostResults(partial(self._results, fetched))

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        """As `StepStages.move`."""
        self._all(lambda part: part.move(shape, rows, to))

    def cache_shape(self, count: int) -> tuple[int, ...]:
        """As `DeviceNets.cache_shape`, of all layers."""
        return sum(self._areas), count, *self._row

    def read_rows(self, start: int, count: int) -> NDArray[Any]:
        """As `DeviceNets.read_rows`, of all layers."""
        return np.concatenate(self._all(lambda part: part.read_rows(start, count)))

    def write_rows(self, start: int, rows: NDArray[Any]) -> None:
        """As `DeviceNets.write_rows`, of all layers."""
        pieces = np.split(rows, np.cumsum(self._areas)[:-1])
        self._all(lambda part, piece: part.write_rows(start, piece), pieces)

    def memory_used(self) -> int | None:
        """Bytes in use on all devices, by all programs; None when one does not tell."""
        used = self._all(lambda part: part.memory_used())
        return None if None in used else sum(size or 0 for size in used)

    def close(self) -> None:
        """Close all parts. May be called twice."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for part in self._parts:
            part.abort()
        for thread, part in zip(self._threads, self._parts, strict=True):
            thread.shutdown()
            part.close()

    def _all(self, ask: Callable[..., T], *each: Sequence[Any]) -> list[T]:
        """Ask all parts, each with what is its own of `each`, when it has done what it was told before."""
        self._settle()
        asked = [
            thread.submit(ask, part, *own)
            for thread, part, *own in zip(self._threads, self._parts, *each, strict=True)
        ]
        return [answer.result() for answer in asked]

    def _results(self, fetched: Future[Fetched]) -> Fetched:
        """Wait for a launch. Raises also what one before it failed with: it has seen rows that are missing."""
        if fetched in self._under_way:
            self._settle(len(self._under_way) - 1 - self._under_way.index(fetched))
        elif self._failure is not None:
            raise self._failure
        return fetched.result()

    def _settle(self, most: int = 0) -> None:
        """Wait until at most so many launches are on their way. Raises, from then on always, what one failed with."""
        if self._failure is not None:
            raise self._failure
        try:
            while len(self._under_way) > most:
                # Ctrl-C may end the wait: it stays until it is known how it went.
                self._under_way[0].result()
                self._under_way.popleft()
        except Exception as error:
            # What came after a launch that failed fails as well.
            self._under_way.clear()
            self._failure = error
            raise


def _handing_on(
    launch: Callable[[StepShape, int, NDArray[np.uint16], Sequence[Segment]], T],
    shape: StepShape,
    row: int,
    states: Future[NDArray[np.uint16]],
    segments: Sequence[Segment],
) -> T:
    return launch(shape, row, states.result(), segments)


@dataclass(frozen=True, slots=True)
class ChainOpener:
    """Opens the parts of a bundle: `open_part` one by its index, raising what `StepStages` and `BackendOpener` do."""

    open_part: Callable[[int, BundlePart, StepNets], PartNets]

    def open(self, bundle: Bundle, nets: StepNets) -> PartChain:
        """Open all of them, or none."""
        with ExitStack() as opened:
            parts = []
            for index, part in enumerate(bundle.parts):
                parts.append(self.open_part(index, part, nets))
                opened.callback(parts[-1].close)
            opened.pop_all()
        return PartChain(parts, nets, [part.config for part in bundle.parts])
