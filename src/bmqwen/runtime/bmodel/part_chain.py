"""A model in parts, each on a device of its own, used like one: the host hands rows from part to part."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle, BundlePart
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.model.config import ModelConfig
from bmqwen.runtime.bmodel.backend import DeviceBackend
from bmqwen.runtime.bmodel.device_nets import Counters
from bmqwen.runtime.bmodel.step_stages import Segment, StepStages

T = TypeVar("T")


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
        """Launch as `StepStages.launch`; returns the hidden rows for the next part, of the last part none."""

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None: ...
    def token_ids(self, shape: StepShape, count: int) -> list[int]: ...
    def logits(self, shape: StepShape, first: int, count: int) -> NDArray[np.float32]: ...
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
        self._backend, self._is_last = backend, config.is_last
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
        return states[:0] if self._is_last else self._stages.hidden(shape, len(states))

    def memory_used(self) -> int | None:
        return self._backend.memory_used()

    def abort(self) -> None:
        """A launch is over soon."""

    def close(self) -> None:
        self._backend.close()


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
        # Launches on their way, the oldest first: as many as there are parts.
        self._under_way: deque[Future[NDArray[np.uint16]]] = deque()
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
        return reduce(add, self._all(lambda part: part.counters))

    def launch(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> None:
        """As `StepStages.launch`. Raises DeviceError also for an earlier launch that failed."""
        # The rows that are seen may have moved when a part comes to look.
        fixed = [segment._replace(seen=segment.seen.copy()) for segment in segments]
        done: Future[NDArray[np.uint16]] = Future()
        done.set_result(states)
        for thread, part in zip(self._threads, self._parts, strict=True):
            done = thread.submit(_run, part, shape, row, done, fixed)
        self._under_way.append(done)
        self._settle(len(self._parts))

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        """As `StepStages.move`."""
        self._all(lambda part: part.move(shape, rows, to))

    def token_ids(self, shape: StepShape, count: int) -> list[int]:
        """As `StepStages.token_ids`."""
        self._settle()
        return self._threads[-1].submit(self._parts[-1].token_ids, shape, count).result()

    def logits(self, shape: StepShape, first: int, count: int) -> NDArray[np.float32]:
        """As `StepStages.logits`."""
        self._settle()
        return self._threads[-1].submit(self._parts[-1].logits, shape, first, count).result()

    def cache_shape(self, count: int) -> tuple[int, ...]:
        """As `DeviceNets.cache_shape`, of all layers."""
        return sum(self._areas), count, *self._row

    def read_rows(self, start: int, count: int) -> NDArray[Any]:
        """As `DeviceNets.read_rows`, of all layers."""
        return np.concatenate(self._all(lambda part: part.read_rows(start, count)))

    def write_rows(self, start: int, rows: NDArray[Any]) -> None:
        """As `DeviceNets.write_rows`, of all layers."""
        pieces = iter(np.split(rows, np.cumsum(self._areas)[:-1]))
        self._wait(
            thread.submit(part.write_rows, start, next(pieces))
            for thread, part in zip(self._threads, self._parts, strict=True)
        )

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

    def _all(self, ask: Callable[[PartNets], T]) -> list[T]:
        """Ask all parts, each when it has done what it was told before."""
        return self._wait(
            thread.submit(ask, part) for thread, part in zip(self._threads, self._parts, strict=True)
        )

    def _wait(self, asked: Iterable[Future[T]]) -> list[T]:
        self._settle()
        return [answer.result() for answer in list(asked)]

    def _settle(self, most: int = 0) -> None:
        """Wait until at most so many launches are on their way. Raises, from then on always, what one failed with."""
        if self._failure is not None:
            raise self._failure
        try:
            while len(self._under_way) > most:
                self._under_way.popleft().result()
        except Exception as error:
            # What came after a launch that failed fails as well.
            self._under_way.clear()
            self._failure = error
            raise


def _run(
    part: PartNets,
    shape: StepShape,
    row: int,
    states: Future[NDArray[np.uint16]],
    segments: Sequence[Segment],
) -> NDArray[np.uint16]:
    return part.run(shape, row, states.result(), segments)


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
