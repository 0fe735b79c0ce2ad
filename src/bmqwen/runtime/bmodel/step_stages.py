"""The step nets of a bmodel on a device: their inputs, their one K/V cache, and launching them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.states import (
    COMMITTED,
    MASKS,
    ROWS,
    copied_states,
    delta_masks,
    state_bytes,
    state_inputs,
    state_names,
    written_name,
)
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.errors import BundleError, DeviceError
from bmqwen.model.config import ModelConfig
from bmqwen.runtime.bmodel.backend import DeviceBackend, Memory, Port, Stage
from bmqwen.runtime.bmodel.device_nets import CLOSED, DeviceNets
from bmqwen.util.float16 import to_half

DATA = ("input_states", "position_ids", "attention_mask", "last_row")
# What nets compute: with the head, and of a part that others follow.
RESULTS = ("token_id", "logits", "hidden")
# What the names of inputs and outputs begin with that lie where they are. A net without history does not look at it.
BUSY = ("history_", "k_cache.", "v_cache.", "conv_", "delta_")


class Segment(NamedTuple):
    """New tokens of one sequence in a launch, which lie side by side.

    Attributes:
        sequence: names the sequence, and how often rows of it were taken away: equal ones only ever gained rows.
        position: of the first token.
        tokens: how many they are.
        seen: the cache's rows of the tokens before.
        results: how many of the tokens, from the last one back, have results that are wanted.
        asked: what of the results will be read.
        committed: how many of them, from the first one on, the states are to have seen afterwards; None: all.
    """

    sequence: tuple[int, int]
    position: int
    tokens: int
    seen: NDArray[np.int64]
    results: int = 1
    asked: Literal["nothing", "tokens", "logits"] = "logits"
    committed: int | None = None

    @classmethod
    def alone(cls, position: int, count: int, results: int = 1) -> "Segment":
        """Return tokens of the only sequence, whose rows are its positions."""
        return cls((-1, position), position, count, np.arange(position), results)


class Results(Protocol):
    """What a launch computed, of each result the most likely token and the logits.

    Attributes:
        lasting: it can be read after the next launch.
    """

    lasting: bool

    def token_ids(self, first: int, count: int) -> list[int]:
        """Return the most likely tokens of `count` results."""

    def logits(self, first: int, count: int) -> NDArray[np.float32]:
        """Return logits float32 [count, vocab]."""

    def keep(self) -> None:
        """Copy everything to the host before the next launch, if it does not last."""


class StepStages(DeviceNets):
    """Launches stages one at a time on one K/V cache; which one and at which row is the caller's business.

    Inputs go to the device together before a launch; the new rows of K/V are written to their place by the device, and
    the states of recurrent layers in place of the old ones, where the net has not done so itself.
    What was computed stays there until it is asked for, or the next launch takes its place.
    """

    def __init__(self, backend: DeviceBackend, nets: StepNets, config: ModelConfig) -> None:
        """Find the stages in the backend's bmodel and zero the cache.

        Raises:
            BundleError: the bmodel is not what `nets` and `config` describe.
            DeviceError: the device is of another kind, or fails.
        """
        super().__init__(backend)
        self._nets, self._config, self.context = nets, config, nets.context
        self._row, self._row_type = (config.num_key_value_heads, config.head_dim), np.uint16
        if backend.chip != nets.chip:
            raise DeviceError(f"the bundle was compiled for {nets.chip}, but {backend} is a {backend.chip}")
        network = backend.networks.get(nets.name)
        if network is None:
            raise BundleError(f"{backend.path} has no net {nets.name!r}: it is of another kind")
        stages = {shape: self._find(network.stages, shape) for shape in nets.cycles}
        longest = max(nets.cycles, key=lambda shape: (shape.history, shape.tokens))
        half = "bf16" if stages[longest].input("attention_mask").bfloat16 else "f16"
        if half != nets.half:
            raise BundleError(
                f"{backend.path} computes in {half}, but its manifest says {nets.half}: make the bundle again"
            )
        self._cache = [stages[longest].input(name).memory for name in self._histories()]
        zeros = np.zeros(max(memory.size for memory in self._cache), np.uint8)
        for memory in self._cache:
            # What memory holds at first may be NaN, which a mask does not hide.
            memory.write(zeros[: memory.size])
        self._states = [stages[longest].input(name).memory for name in state_names(config)]
        self.write_states(None)
        busy = [
            port
            for shape, stage in stages.items()
            for port in (*stage.inputs, *stage.outputs)
            if port.name.startswith(BUSY if shape.history else BUSY[1:])
        ]
        self._launches = {
            shape: _Launch(self, stage, shape, self._cache, busy) for shape, stage in stages.items()
        }

    def launch(
        self, shape: StepShape, row: int, states: NDArray[np.uint16], segments: Sequence[Segment]
    ) -> Results:
        """Feed embedded tokens [n, hidden] (bits of halves), n <= shape.tokens, to the cache's rows from `row` on.

        The segments say whose they are, in their order. All shape.tokens rows of the cache from `row` on change; those
        beyond n are not to be used.
        """
        self._settle()
        launch = self._launches[shape]
        launch.fill(states, segments)
        self._write(launch.block)
        if row != shape.landing(self._nets.rows):
            # A net writes its rows behind its history, and the device copies them from there.
            self.counters.row_copies += len(self._cache)
            self.counters.row_bytes += len(self._cache) * shape.tokens * self.row_bytes
        self.counters.row_copies += launch.states_copied
        self.counters.row_bytes += launch.state_bytes
        self._start(launch.prepared, row * self.row_bytes)
        return _DeviceResults(self, shape, sum(segment.results for segment in segments))

    def hidden(self, shape: StepShape, count: int) -> NDArray[np.uint16]:
        """The first `count` rows that a part without a head hands over, [count, hidden] halves, of the last launch."""
        rows = np.empty((count, self._config.hidden_size), np.uint16)
        self._read(self._launches[shape].results["hidden"], rows)
        return rows

    def move(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        """Copy rows of the cache, at most shape.tokens, side by side to row `to`, by the net that does that.

        All shape.tokens rows from there on change.
        """
        self._settle()
        launch = self._launches[shape]
        numbers = launch.block.arrays["position_ids"][0]
        numbers[: len(rows)], numbers[len(rows) :] = rows, rows[-1]
        self._write(launch.block)
        self.counters.row_copies += len(self._cache)
        self.counters.row_bytes += len(self._cache) * shape.tokens * self.row_bytes
        self._start(launch.prepared, to * self.row_bytes)
        # Whoever keeps account of the rows has to know where they are.
        self._settle()

    def token_ids(self, shape: StepShape, count: int) -> list[int]:
        """The most likely tokens by the first `count` results of the last launch, which was of that shape."""
        ids = np.empty(count, np.int32)
        self._read(self._launches[shape].results["token_id"], ids)
        found: list[int] = ids.tolist()
        return found

    def logits(self, shape: StepShape, first: int, count: int) -> NDArray[np.float32]:
        """Logits float32 [count, vocab] of results of the last launch, which was of that shape."""
        rows = np.empty((count, self._config.width), np.float32)
        self._read(self._launches[shape].results["logits"], rows, first * rows[0].nbytes)
        return rows

    def read_states(self) -> tuple[NDArray[np.uint16], ...]:
        """Return the states of recurrent layers, bits of halves, as the last launch left them."""
        found = tuple(np.empty(shape, np.uint16) for shape in state_names(self._config).values())
        for memory, array in zip(self._states, found, strict=True):
            self._read(memory, array)
        return found

    def write_states(self, states: Sequence[NDArray[np.uint16]] | None) -> None:
        """Replace them by what `read_states` returned; None: by those of no tokens."""
        self._settle()
        given = states or [np.zeros(shape, np.uint16) for shape in state_names(self._config).values()]
        for memory, array in zip(self._states, given, strict=True):
            memory.write(array)
            self.counters.writes += 1
            self.counters.bytes_in += array.nbytes

    def _histories(self) -> list[str]:
        return [f"history_{part}.{i}" for i in self._config.kv_layers for part in "kv"]

    def _find(self, stages: Sequence[Stage], shape: StepShape) -> Stage:
        """The stage of a shape, checked against the model's sizes."""
        tokens, history, config = shape.tokens, shape.history, self._config
        wanted: dict[str, tuple[int, ...]] = {
            "input_states": (1, tokens, config.hidden_size),
            **shape.inputs,
        }
        wanted |= dict.fromkeys(self._histories(), (1, history or 1, *self._row))
        wanted |= state_inputs(config, shape) | state_names(config)
        for stage in stages:
            if {port.name: port.shape for port in stage.inputs} == wanted:
                return stage
        raise BundleError(
            f"{self._backend.path} has no stage for {shape}: it does not fit its manifest, make the bundle again"
        )


class _DeviceResults:
    """The `Results` of the last launch, on the device until they are asked for; its tokens are read together."""

    lasting = False

    def __init__(self, stages: StepStages, shape: StepShape, count: int) -> None:
        self._stages, self._shape, self._count = stages, shape, count
        self._ids: list[int] | None = None
        self._rows: NDArray[np.float32] | None = None

    def token_ids(self, first: int, count: int) -> list[int]:
        if self._ids is None:
            self._ids = self._stages.token_ids(self._shape, self._count)
        return self._ids[first : first + count]

    def logits(self, first: int, count: int) -> NDArray[np.float32]:
        if self._rows is not None:
            return self._rows[first : first + count]
        return self._stages.logits(self._shape, first, count)

    def keep(self) -> None:
        if self._count:
            self._rows = self._stages.logits(self._shape, 0, self._count)
            self._ids = self._rows.argmax(axis=1).tolist()


class _Launch:
    """A stage made ready: its inputs on the host, and where it reads and writes on the device."""

    def __init__(
        self,
        owner: StepStages,
        stage: Stage,
        shape: StepShape,
        cache: Sequence[Memory],
        busy: Sequence[Port],
    ) -> None:
        self.stage = stage
        copied = copied_states(owner._config, shape.tokens)
        self.states_copied, self.state_bytes = len(copied), state_bytes(owner._config, copied)
        told = state_inputs(owner._config, shape)
        names = [*DATA, *(name for name in told if name != MASKS)]
        self.block = owner._backend.inputs([stage.input(name) for name in names], busy)
        if MASKS in told:
            stage.input(MASKS).memory.write(to_half(delta_masks(shape.tokens), owner._nets.half))
        # Where a runtime gives each stage memory of its own, the device copies the rows that the stage sees.
        # Without history it sees none: the row that is named nevertheless stays as it is.
        histories = dict(zip(owner._histories(), cache, strict=True)) if shape.history else {}
        states = dict(zip(state_names(owner._config), owner._states, strict=True))
        seen = histories | states
        inputs = [
            self.block.memory.get(port.name)
            or (seen[port.name].view(0, port.nbytes) if port.name in seen else port.memory)
            for port in stage.inputs
        ]
        names = [f"{part}_cache.{i}" for i in owner._config.kv_layers for part in "kv"]
        rows = {stage.output(name).name: memory for name, memory in zip(names, cache, strict=True)}
        left = rows | {written_name(name): memory for name, memory in states.items()}
        outputs = [
            left[port.name].view(0, port.nbytes) if port.name in left else port.memory
            for port in stage.outputs
        ]
        moving = [i for i, port in enumerate(stage.outputs) if port.name in rows]
        self.prepared = owner._backend.prepare(stage, inputs, outputs, moving)
        # The compiler adds to the name of an output that it converts.
        self.results = {
            name: port.memory for port in stage.outputs for name in RESULTS if port.name.startswith(name)
        }
        wanted = RESULTS[:2] if owner._config.is_last else RESULTS[2:]
        if missing := [name for name in wanted if name not in self.results]:
            raise BundleError(
                f"{owner._backend.path} does not compute {missing[0]}: it does not fit its manifest, make the "
                "bundle again"
            )
        self._closed, self._one = to_half(np.array([CLOSED, 1.0]), owner._nets.half).tolist()
        self._mask = self.block.arrays["attention_mask"][0, 0]
        self._history = shape.history
        own = np.full((shape.tokens, shape.tokens), self._closed, np.uint16)
        self._alone = np.triu(own, 1)
        # What the mask was made for: the sequences and their tokens, and how many rows each of them sees.
        self._layout: list[tuple[tuple[int, int], int]] = []
        self._known: list[int] = []

    def fill(self, states: NDArray[np.uint16], segments: Sequence[Segment]) -> None:
        """Set the inputs."""
        count, arrays = len(states), self.block.arrays
        rows, positions, wanted = arrays["input_states"][0], arrays["position_ids"][0], arrays["last_row"]
        end, numbers, results = 0, list[int](), list[int]()
        for segment in segments:
            end += segment.tokens
            numbers += range(segment.position, segment.position + segment.tokens)
            results += range(end - segment.results, end)
        rows[:count], positions[:count], wanted[: len(results)] = states, numbers, results
        if count < len(rows):
            rows[count:] = positions[count:] = 0
        if len(results) < len(wanted):
            wanted[len(results) :] = 0
        if COMMITTED in arrays:
            (segment,) = segments
            committed = count if segment.committed is None else segment.committed
            marks, last = arrays[COMMITTED].reshape(-1), arrays[ROWS]
            marks[:committed], marks[committed:] = self._one, 0
            last[:] = np.arange(committed, committed + len(last))
        self._show(segments)

    def _show(self, segments: Sequence[Segment]) -> None:
        """Set the mask: each row sees its sequence's rows, and of the new ones its own and those before."""
        alone, mask, history = len(segments) == 1, self._mask, self._history
        layout = [(segment.sequence, 0 if alone else segment.tokens) for segment in segments]
        if layout != self._layout:
            self._layout, self._known = layout, [0] * len(segments)
            mask[:, :history] = self._closed
            mask[:, history:] = self._alone if alone else self._closed
            end = 0
            for segment in () if alone else segments:
                start, end = end, end + segment.tokens
                mask[start:end, history + start : history + end] = self._alone[: end - start, : end - start]
        # Else it is right but for the rows that the sequences gained since.
        end = 0
        for i, segment in enumerate(segments):
            start, end = end, end + segment.tokens
            gained = segment.seen[self._known[i] :]
            # Single numbers and slices are written faster than numbered places.
            if len(gained) == 1:
                at = gained[0]
            else:
                side_by_side = len(gained) > 1 and bool((np.diff(gained) == 1).all())
                at = slice(gained[0], gained[-1] + 1) if side_by_side else gained
            # Of a sequence alone also rows that are not used: the next launch may use them.
            rows = slice(None) if alone else start if end - start == 1 else slice(start, end)
            mask[rows, at] = 0
            self._known[i] = len(segment.seen)
