"""A bmodel bundle on the vendor's simulator, in a process of its own: token ids go in, ids and logits come out."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.steps import StepShape
from bmqwen.runtime.base import Output, SavedCache, check_feed, check_truncate
from bmqwen.runtime.bmodel.device_nets import Counters
from bmqwen.runtime.bmodel.loaded_bmodel import device_bytes
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StageResult, StepRuntime, open_bmodel
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import SIMULATOR_MEMORY
from bmqwen.runtime.bmrt.worker import Worker

# The simulator's memory beyond what the bundle needs: its own commands, and what an estimate may be short of.
SPARE = 512 << 20


class Target:
    """What the simulator's process holds: a runtime and its last output. What is not here is the runtime's own."""

    def __init__(self, runtime: StepRuntime | PublishedRuntime) -> None:
        self._runtime = runtime
        self._output: Output
        self._pieces: Iterator[Output]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def feed(self, position: int, tokens: Sequence[int], every_row: bool) -> None:
        """As `Runtime.feed`, after `position` tokens; later ones are forgotten first."""
        self._runtime.truncate(position)
        self._output = self._runtime.feed(tokens, every_row=every_row)

    def read(self, position: int, tokens: Sequence[int]) -> None:
        """As `Runtime.read`, after `position` tokens, a piece for each `read_piece`."""
        self._runtime.truncate(position)
        self._pieces = self._runtime.read(tokens)

    def read_piece(self) -> int:
        """Append the next piece of what `read` was given; returns the position after it."""
        self._output = next(self._pieces)
        return self._runtime.position

    def greedy(self) -> int:
        return self._output.greedy()

    def logits(self) -> NDArray[np.float32]:
        return self._output.logits()


def open_target(bundle: Bundle, folder: Path | None, context_length: int | None, device: int) -> Target:
    """Load the bundle, in the simulator's process."""
    open_backend = partial(BmrtBackend.open, folder=folder, index=device)
    return Target(open_bmodel(bundle, open_backend, context_length=context_length))


class SimulatedOutput:
    """What one feed computed; asked for in the simulator's process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def greedy(self) -> int:
        return cast(int, self._worker.call("greedy"))

    def logits(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._worker.call("logits"))


class SimulatedRuntime:
    """A `bmqwen.runtime.base.Runtime` on the simulator.

    The position is kept on this side and sent with every call: a call that was interrupted leaves no trace.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path | None,
        *,
        context_length: int | None = None,
        device: int = 0,
        opener: str = f"{__name__}:open_target",
    ) -> None:
        """Start the simulator's process and load the bundle there. Raises what `StepRuntime` does.

        Args:
            bundle, context_length: as of `StepRuntime`.
            folder: the simulator's libraries; None: those in the place of a chip's.
            device: which simulated chip.
            opener: what loads the bundle there, "module:function".
        """
        self.position = 0
        self._worker = Worker(
            opener,
            {"bundle": bundle, "folder": folder, "context_length": context_length, "device": device},
            what="the simulator",
            environment={SIMULATOR_MEMORY: hex(device_bytes(bundle) + SPARE)},
        )
        chip, library = self._worker.call("chip"), self._worker.call("library")
        # By libbmrt it is as usual.
        self.name = f"simulator of a {chip}" + (f", {library}" if library != BmrtBackend.library else "")
        self.vocab_size: int = bundle.config.vocab_size
        self.context_length: int = self._worker.call("context_length")

    @property
    def counters(self) -> Counters:
        """Calls and bytes since loading, as they are now."""
        return cast(Counters, self._worker.call("counters"))

    @property
    def memory_used(self) -> int | None:
        """Bytes of the simulated device's memory that the bundle takes."""
        return cast(int | None, self._worker.call("memory_used"))

    def read(self, tokens: Sequence[int]) -> Iterator[SimulatedOutput]:
        check_feed(self, tokens)
        end = self.position + len(tokens)
        self._worker.call("read", self.position, [int(token) for token in tokens])
        while self.position < end:
            self.position = self._worker.call("read_piece")
            yield SimulatedOutput(self._worker)

    def feed(self, tokens: Sequence[int], *, every_row: bool = False) -> SimulatedOutput:
        """Append tokens and simulate what follows them: about a second for a million of products."""
        check_feed(self, tokens)
        self._worker.call("feed", self.position, [int(token) for token in tokens], every_row)
        self.position += len(tokens)
        return SimulatedOutput(self._worker)

    def truncate(self, position: int) -> None:
        check_truncate(self, position)
        self.position = position

    def save_cache(self) -> SavedCache:
        self._worker.call("truncate", self.position)
        return cast(SavedCache, self._worker.call("save_cache"))

    def restore_cache(self, saved: SavedCache, position: int) -> None:
        self.position = 0
        self._worker.call("restore_cache", saved, position)
        self.position = position

    def interrupt(self) -> None:
        """A launch of the simulator cannot be interrupted; a feed runs to its end."""

    def run_stage(self, shape: StepShape, tokens: Sequence[int], cache: NDArray[np.float32]) -> StageResult:
        self.position = 0
        return cast(StageResult, self._worker.call("run_stage", shape, list(tokens), cache))

    def close(self) -> None:
        self._worker.close()
