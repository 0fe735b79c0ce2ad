"""A bmodel bundle on the vendor's simulator, in a process of its own: token ids go in, ids and logits come out."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle, BundlePart
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.runtime.base import Feed, Output, SavedCache, check_step, check_truncate
from bmqwen.runtime.bmodel.device_nets import Counters
from bmqwen.runtime.bmodel.part_chain import ChainOpener, Fetched, LocalPart
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_runtime import StageResult, StepRuntime, open_bmodel
from bmqwen.runtime.bmodel.step_stages import Segment
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.simulator_environment import simulator_environment
from bmqwen.runtime.bmrt.worker import Worker

# The simulator's memory beyond what the bundle needs: its own commands, and what an estimate may be short of.
SPARE = 512 << 20


class Target:
    """What the simulator's process holds: a runtime and its last outputs. What is not here is the runtime's own."""

    def __init__(self, runtime: StepRuntime | PublishedRuntime) -> None:
        self._runtime = runtime
        self._outputs: list[Output] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, positions: Sequence[int], feeds: Sequence[Feed]) -> None:
        """As `Runtime.step`, with that many tokens of each sequence; later ones are forgotten first."""
        for sequence, position in enumerate(positions):
            self._runtime.truncate(sequence, position)
        self._outputs = self._runtime.step(feeds)

    def piece(self, position: int, sequence: int, count: int, beside: int, waiting: int) -> int:
        """As `Runtime.piece`, after `position` tokens."""
        self._runtime.truncate(sequence, position)
        return self._runtime.piece(sequence, count, beside, waiting)

    def row_costs(self, position: int, sequence: int, beside: int) -> Mapping[int, float]:
        """As `Runtime.row_costs`, after `position` tokens."""
        self._runtime.truncate(sequence, position)
        return self._runtime.row_costs(sequence, beside)

    def reads_apart(self, positions: Sequence[int], sequence: int, count: int, beside: int) -> bool:
        """As `Runtime.reads_apart`, with that many tokens of each sequence."""
        for other, position in enumerate(positions):
            self._runtime.truncate(other, position)
        return self._runtime.reads_apart(sequence, count, beside)

    def save(self, position: int, sequence: int) -> SavedCache:
        """As `Runtime.save`, of `position` tokens."""
        self._runtime.truncate(sequence, position)
        return self._runtime.save(sequence)

    def greedy(self, index: int) -> list[int]:
        return self._outputs[index].greedy()

    def logits(self, index: int) -> NDArray[np.float32]:
        return self._outputs[index].logits()


def open_target(bundle: Bundle, folder: Path | None, context_length: int | None, device: int) -> Target:
    """Load the bundle, in the simulator's process."""
    open_backend = partial(BmrtBackend.open, folder=folder, index=device)
    return Target(open_bmodel(bundle, open_backend, context_length=context_length))


def open_part(part: BundlePart, nets: StepNets, folder: Path | None, device: int) -> LocalPart:
    """Load a part of a bundle, in the simulator's process."""
    return LocalPart(
        BmrtBackend.open(part.bmodel, part.device_bytes, folder=folder, index=device), nets, part.config
    )


class SimulatedOutput:
    """What a step computed for the Feed of an index; asked for in the simulator's process."""

    def __init__(self, worker: Worker, index: int) -> None:
        self._worker, self._index = worker, index

    def greedy(self) -> list[int]:
        return cast(list[int], self._worker.call("greedy", self._index))

    def logits(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._worker.call("logits", self._index))


class SimulatedRuntime:
    """A `bmqwen.runtime.base.Runtime` on the simulator.

    Positions are kept on this side and sent with every call: a call that was interrupted leaves no trace.
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
        self._worker = Worker(
            opener,
            {"bundle": bundle, "folder": folder, "context_length": context_length, "device": device},
            what="the simulator",
            environment=simulator_environment(bundle.parts[0].device_bytes + SPARE),
        )
        chip, library = self._worker.call("chip"), self._worker.call("library")
        # By libbmrt it is as usual.
        self.name = f"simulator of a {chip}" + (f", {library}" if library != BmrtBackend.library else "")
        self.vocab_size: int = bundle.config.vocab_size
        self.context_length: int = self._worker.call("context_length")
        self.sequences: int = self._worker.call("sequences")
        self.rounds_by_rows: bool = self._worker.call("rounds_by_rows")
        self._positions = [0] * self.sequences

    @property
    def counters(self) -> Counters:
        """Calls and bytes since loading, as they are now."""
        return cast(Counters, self._worker.call("counters"))

    @property
    def memory_used(self) -> int | None:
        """Bytes of the simulated device's memory that the bundle takes."""
        return cast(int | None, self._worker.call("memory_used"))

    def position(self, sequence: int) -> int:
        return self._positions[sequence]

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        position = self._positions[sequence]
        return cast(int, self._worker.call("piece", position, sequence, count, beside, waiting))

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        costs = self._worker.call("row_costs", self._positions[sequence], sequence, beside)
        return cast(Mapping[int, float], costs)

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        return cast(bool, self._worker.call("reads_apart", self._positions, sequence, count, beside))

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        """One: it is one device."""
        del answers, reading
        return 1

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens and simulate what follows them: about a second for 8 million weights."""
        check_step(self, feeds)
        sent = [feed._replace(tokens=[int(token) for token in feed.tokens]) for feed in feeds]
        self._worker.call("step", self._positions, sent)
        for feed in feeds:
            self._positions[feed.sequence] += len(feed.tokens)
        return [SimulatedOutput(self._worker, index) for index in range(len(feeds))]

    def truncate(self, sequence: int, position: int) -> None:
        check_truncate(self, sequence, position)
        self._positions[sequence] = position

    def save(self, sequence: int) -> SavedCache:
        return cast(SavedCache, self._worker.call("save", self._positions[sequence], sequence))

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        self._positions[sequence] = 0
        self._worker.call("restore", sequence, saved, position)
        self._positions[sequence] = position

    def interrupt(self) -> None:
        """A launch of the simulator cannot be interrupted; a step runs to its end."""

    def run_stage(
        self,
        shape: StepShape,
        tokens: Sequence[int],
        cache: NDArray[np.float32],
        states: Mapping[str, NDArray[np.float32]] | None = None,
        committed: int | None = None,
    ) -> StageResult:
        """As `StepRuntime.run_stage`."""
        self._positions[0] = 0
        found = self._worker.call("run_stage", shape, list(tokens), cache, states, committed)
        return cast(StageResult, found)

    def close(self) -> None:
        self._worker.close()


class SimulatedPart:
    """The `PartNets` of a simulator, which has a process of its own."""

    def __init__(
        self, part: BundlePart, nets: StepNets, *, folder: Path | None, device: int, opener: str
    ) -> None:
        """Start it; arguments are those of `SimulatedRuntime`, `opener` loads the part there."""
        self._worker = Worker(
            opener,
            {"part": part, "nets": nets, "folder": folder, "device": device},
            what=f"the simulator of {part.bmodel.name}",
            environment=simulator_environment(part.device_bytes + SPARE),
        )
        self.chip, self.library = (str(self._worker.call(name)) for name in ("chip", "library"))
        self.device = f"simulator of {part.bmodel.stem}"

    @property
    def counters(self) -> Counters:
        return cast(Counters, self._worker.call("counters"))

    def run(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> NDArray[np.uint16]:
        return cast(NDArray[np.uint16], self._worker.call("run", shape, row, states, segments))

    def finish(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> Fetched:
        return cast(Fetched, self._worker.call("finish", shape, row, states, segments))

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        self._worker.call("move", shape, rows, to)

    def read_rows(self, start: int, count: int) -> NDArray[Any]:
        return cast(NDArray[Any], self._worker.call("read_rows", start, count))

    def write_rows(self, start: int, rows: NDArray[Any]) -> None:
        self._worker.call("write_rows", start, rows)

    def memory_used(self) -> int | None:
        return cast(int | None, self._worker.call("memory_used"))

    def abort(self) -> None:
        """End the process."""
        self._worker.close()

    def close(self) -> None:
        self._worker.close()


def open_simulators(
    bundle: Bundle,
    folder: Path | None,
    *,
    context_length: int | None = None,
    devices: Sequence[int] | None = None,
    opener: str = f"{__name__}:open_part",
) -> StepRuntime:
    """Load a bundle in parts, each on a simulator of its own; arguments as of `SimulatedPart`, errors of `StepRuntime`.

    `devices`: which simulated chips; None: each simulator's first.
    """

    def opened(index: int, part: BundlePart, nets: StepNets) -> SimulatedPart:
        device = devices[index] if devices else 0
        return SimulatedPart(part, nets, folder=folder, device=device, opener=opener)

    return StepRuntime(bundle, ChainOpener(opened), context_length=context_length)
