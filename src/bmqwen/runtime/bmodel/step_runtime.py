"""Runs a bmodel bundle of step nets on a device: one launch a step, four bytes back for each result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bmodel import check_intermediates
from bmqwen.artifact.bundle import EMBEDDING_FILE, Bundle
from bmqwen.artifact.row_pool import Part, Placement, RowPool
from bmqwen.artifact.states import state_names
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.errors import BundleError
from bmqwen.runtime.base import (
    Feed,
    Output,
    SavedCache,
    check_saved,
    check_step,
    check_truncate,
    chosen_context,
)
from bmqwen.runtime.bmodel.backend import BackendOpener, DeviceBackend
from bmqwen.runtime.bmodel.device_state import TAIL, DeviceState, committed_tokens
from bmqwen.runtime.bmodel.loaded_bmodel import DeviceOutput, LoadedBmodel
from bmqwen.runtime.bmodel.part_chain import ChainOpener, PartChain
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_stages import Results, Segment, StepStages
from bmqwen.runtime.recurrent_state import Snapshot
from bmqwen.util.float16 import from_half, to_half


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one launch computed.

    Attributes:
        token_ids: the most likely token after the last one fed; or after each, of a net with a result for every row.
        logits: float32 [results, vocab].
        rows: new rows of K/V, float32 [2 * layers, tokens, kv_heads, head_dim], a layer's keys before its values.
        states: those of recurrent layers after the step, float32, by `state_names`.
    """

    token_ids: list[int]
    logits: NDArray[np.float32]
    rows: NDArray[np.float32]
    states: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


# Costs of drafts are asked for once for so many rows of the cache.
_COST_ROWS = 64


class _FeedResults(NamedTuple):
    """Results of a feed in one of the launches of its step: `results` of them from `first` on."""

    launched: Results
    first: int
    results: int

    def token_ids(self) -> list[int]:
        """The most likely tokens."""
        return self.launched.token_ids(self.first, self.results)

    def logits(self) -> NDArray[np.float32]:
        """Logits, float32 [results, vocab]."""
        return self.launched.logits(self.first, self.results)


class StepRuntime(LoadedBmodel[StepStages | PartChain]):
    """A `bmqwen.runtime.base.Runtime` of a bmodel bundle on a chip, or in the simulator's process; or on several."""

    def __init__(
        self, bundle: Bundle, open_device: BackendOpener | ChainOpener, *, context_length: int | None = None
    ) -> None:
        """Load the bundle.

        Args:
            bundle: of the kind "bmodel".
            open_device: opens the device with the bundle's bmodel, or of a bundle in parts all devices.
            context_length: most tokens to keep; None: what the nets were compiled for.

        Raises:
            BundleError: its files do not fit together.
            InputError: context length out of range.
            MissingDependencyError: no libraries.
            DeviceError: no device, not enough memory, or a refused bmodel.
        """
        self._nets = nets = StepNets.from_dict(bundle.details, str(bundle.folder))
        # Said before loading, which takes a while.
        chosen_context(context_length, nets.context, "the bundle's")
        for part in bundle.parts:
            check_intermediates(part.bmodel)
        config = bundle.config
        self._embedding = map_embedding(bundle.path(EMBEDDING_FILE), config.vocab_size, config.hidden_size)
        self._state_names = tuple(state_names(config))
        self._pool = RowPool(nets, self._move_rows)
        self._row_costs: dict[tuple[int, int], Mapping[int, float]] = {}

        def opened() -> DeviceBackend | PartChain:
            if isinstance(open_device, ChainOpener):
                return open_device.open(bundle, nets)
            (part,) = bundle.parts
            return open_device(part.bmodel, part.device_bytes)

        def found(device: DeviceBackend | PartChain) -> StepStages | PartChain:
            return device if isinstance(device, PartChain) else StepStages(device, nets, config)

        super().__init__(bundle, opened, context_length, found, nets.sequences)
        stages = self._device_nets
        self._state = DeviceState(stages) if config.state_layers and isinstance(stages, StepStages) else None

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        """What the first of as few launches as pay takes; beside answers, what fits into a net with their tokens."""
        del waiting  # rows cost so little there that a piece is large beside any answers
        if self._state is None:
            return self._pool.piece(sequence, count, beside)
        # What the state has not seen is read again with it.
        known = self.position(sequence)
        start = min(self._state.position, known)
        used = self._nets.plan(start, known + count - start)[0][1] - (known - start)
        size = used if used > 0 else count
        return count - TAIL if 0 < count - size < TAIL < count else size

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        """As the compiler's timing has it. Answers side by side share the rows of a net."""
        # A net's place is known to the row only when the step is made; costs hardly change with it.
        key = (self._pool.top // _COST_ROWS, beside)
        if key not in self._row_costs:
            self._row_costs[key] = self._nets_costs(
                [sequence] if not beside else range(self.sequences), beside + 1
            )
        return self._row_costs[key]

    def _nets_costs(self, sequences: Sequence[int], answers: int) -> dict[int, float]:
        alone, costs = self._pool.choose(sequences, answers, answers), {1: 1.0}
        for rows in sorted({shape.rows for shape in self._nets.cycles}):
            several = self._pool.choose(sequences, rows, rows) if rows // answers > 1 else None
            if alone is not None and several is not None:
                costs[rows // answers] = self._nets.cost(several.shape) / self._nets.cost(alone.shape)
        return costs

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        return self._pool.reads_apart(sequence, count, beside)

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        """As many as there are devices while a prompt is read; of answers as the nets' times have it."""
        most = self._nets.parts
        return most if reading or most == 1 else self._pool.groups(answers, most)

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens: in one launch, or in as few as pay."""
        check_step(self, feeds)
        self._begin_step()
        before = [self._pool.position(feed.sequence) for feed in feeds]
        try:
            self._pool.arrange([feed.sequence for feed in feeds])
            results = [len(feed.tokens) if feed.every_row else 1 for feed in feeds]
            outputs = self._run([self._since_state(feed) for feed in feeds], results)
        except BaseException:
            for feed, position in zip(feeds, before, strict=True):
                self._pool.truncate(feed.sequence, position)
                if self._state is not None:
                    # What the state has not seen is read again, into other rows, before they are looked at.
                    self._pool.fill(feed.sequence, position)
            self._forget_lost()
            raise
        for feed in feeds:
            self._tokens[feed.sequence].extend(feed.tokens)
        return outputs

    def truncate(self, sequence: int, position: int) -> None:
        check_truncate(self, sequence, position)
        self._pool.truncate(sequence, position)
        del self._tokens[sequence][position:]

    def save(self, sequence: int) -> SavedCache:
        """Copy the rows in use from the device, as that has them: [2 * layers, position, ...]."""
        tokens, rows = tuple(self._tokens[sequence]), self._pool.rows(sequence)
        if not tokens:
            return SavedCache(0, self._device_nets.read_rows(0, 0))
        states: tuple[Snapshot, ...] = ()
        if self._state is not None:
            self._state.settle(len(tokens))
            states = self._state.save()
        start = int(rows.min())
        found = self._device_nets.read_rows(start, int(rows.max()) + 1 - start)
        # Rows side by side may still be in another order than their tokens.
        in_order = np.array_equal(rows, np.arange(start, start + len(rows)))
        return SavedCache(len(tokens), found if in_order else found[:, rows - start], tokens, states)

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        check_saved(saved, position, self._device_nets.cache_shape(saved.position))
        self._begin_step()
        self.truncate(sequence, 0)
        try:
            row = self._pool.reserve(sequence, position)
            self._device_nets.write_rows(row, saved.rows[:, :position])
            if self._state is not None:
                self._state.load(saved.states, position)
        except BaseException:
            self._pool.truncate(sequence, 0)
            self._forget_lost()
            raise
        self._tokens[sequence].extend(saved.tokens[:position])

    def run_stage(
        self,
        shape: StepShape,
        tokens: Sequence[int],
        cache: NDArray[np.float32],
        states: Mapping[str, NDArray[np.float32]] | None = None,
        committed: int | None = None,
    ) -> StageResult:
        """Launch one stage with a cache and states of the caller's; the tokens cached so far are lost.

        Args:
            shape: which stage.
            tokens: as many as it takes.
            cache: float32 [2 * layers, n, kv_heads, head_dim]: n cached rows, a layer's keys before its values.
            states: those of recurrent layers after the n tokens, float32, by `state_names`; None: of no tokens.
            committed: how many of the tokens the states are to have seen after the step, 1 of a single one; None: all.
        """
        position, count, nets, half = cache.shape[1], len(tokens), self._device_nets, self._nets.half
        self._begin_step()
        for sequence in range(self.sequences):
            self.truncate(sequence, 0)
        if position:
            nets.write_rows(0, to_half(cache, half))
        if self._state is not None:
            given = [to_half(states[name], half) for name in self._state_names] if states else None
            self._state.replace(given)
        # Of a net with results for some rows only, that of the last one.
        results = shape.rows if shape.rows == count else 1
        embedded = self._embedded(tokens)
        segment = Segment.alone(position, count, results)._replace(committed=committed)
        launched = nets.launch(shape, position, embedded, [segment])
        ids, logits = launched.token_ids(0, results), launched.logits(0, results)
        rows = from_half(nets.read_rows(position, count), half)
        after = () if self._state is None else self._state.save()[-1].arrays
        found = zip(self._state_names, after, strict=True)
        return StageResult(ids, logits, rows, {name: from_half(bits[0], half) for name, bits in found})

    def _since_state(self, feed: Feed) -> Feed:
        """The feed with the cached tokens before it that the state has not seen; they are read again."""
        if self._state is None:
            return feed
        known = self._tokens[feed.sequence]
        self._state.settle(len(known))
        self._pool.truncate(feed.sequence, self._state.position)
        return feed._replace(tokens=[*known[self._state.position :], *feed.tokens])

    def _run(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[Output]:
        """Launch a step, of whose feeds so many last tokens have results that are wanted.

        Results that the next launch takes the place of are fetched before it.
        """
        parts = [
            Part(i, feed.sequence, 0, len(feed.tokens), count)
            for i, (feed, count) in enumerate(zip(feeds, wanted, strict=True))
        ]
        found_of: list[list[_FeedResults]] = [[] for _ in feeds]
        launched: Results | None = None
        for group, found in self._pool.launches(parts):
            for placement, taken in self._pool.place(group) if found is None else ((found, group),):
                if launched is not None:
                    self._check_interrupt()
                    launched.keep()
                launched = self._launch(placement, taken, feeds)
                first = 0
                for part in taken:
                    if part.results:
                        found_of[part.feed].append(_FeedResults(launched, first, part.results))
                    first += part.results
        return [
            DeviceOutput(
                self,
                partial(_token_ids, pieces),
                partial(_logits, pieces),
                lasting=pieces[0].launched.lasting,
            )
            for pieces in found_of
        ]

    def _launch(self, placement: Placement, parts: Sequence[Part], feeds: Sequence[Feed]) -> Results:
        pool = self._pool
        tokens: list[int] = []
        segments = []
        for part in parts:
            tokens += feeds[part.feed].tokens[part.start : part.start + part.tokens]
            sequence, rows = part.sequence, pool.rows(part.sequence)
            epoch = pool.epochs[sequence]
            asked = _asked(feeds[part.feed])
            segments.append(Segment((sequence, epoch), len(rows), part.tokens, rows, part.results, asked))
        if self._state is not None:
            (part,) = parts
            feed = feeds[part.feed]
            ends = feed.prompt and not feed.goes_on and part.start + part.tokens == len(feed.tokens)
            committed = committed_tokens(part.tokens, ends_prompt=ends)
            if ends and committed == part.tokens:
                # Afterwards there is nothing to go back to from before the token.
                self._state.keep()
                ends = False
            segments = [segments[0]._replace(committed=committed)]
        try:
            launched = self._device_nets.launch(
                placement.shape, placement.row, self._embedded(tokens), segments
            )
        except BaseException:
            if self._state is not None:
                self._state.lose()
            raise
        if self._state is not None:
            self._state.advance(committed, keep=ends)
        pool.append(placement.row, [(part.sequence, part.tokens) for part in parts])
        return launched

    def _embedded(self, tokens: Sequence[int]) -> NDArray[np.uint16]:
        """The rows of the table, [tokens, hidden]; of a token alone, most steps', without a copy."""
        if len(tokens) == 1:
            return self._embedding[tokens[0] : tokens[0] + 1]
        return self._embedding[np.asarray(tokens, np.int64)]

    def _forget_lost(self) -> None:
        """Forget the tokens whose rows the pool has lost: the device failed while it moved them."""
        for sequence, tokens in enumerate(self._tokens):
            del tokens[self._pool.position(sequence) :]

    def _move_rows(self, shape: StepShape, rows: NDArray[np.int64], to: int) -> None:
        self._device_nets.move(shape, rows, to)


def _asked(feed: Feed) -> Literal["nothing", "tokens", "logits"]:
    if feed.goes_on:
        return "nothing"
    return "tokens" if feed.greedy else "logits"


def _token_ids(pieces: Sequence[_FeedResults]) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids()]


def _logits(pieces: Sequence[_FeedResults]) -> NDArray[np.float32]:
    return np.concatenate([piece.logits() for piece in pieces])


def map_embedding(path: Path, vocab_size: int, hidden_size: int) -> NDArray[np.uint16]:
    """Map a raw file [vocab_size, hidden_size] of halves, as bits: F16 and BF16 are not told apart.

    Raises BundleError for a file that cannot be read or has another size.
    """
    expected = 2 * vocab_size * hidden_size
    try:
        size = path.stat().st_size
        if size != expected:
            raise BundleError(
                f"{path} has {size:,} bytes instead of {expected:,}: it is not the table of "
                f"{vocab_size:,} rows of {hidden_size}"
            )
        return np.asarray(np.memmap(path, np.uint16, "r", shape=(vocab_size, hidden_size)))
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def open_bmodel(
    bundle: Bundle, open_backend: BackendOpener, *, context_length: int | None = None
) -> StepRuntime | PublishedRuntime:
    """Load a bundle for one device, a published one or bmqwen's; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.is_published else StepRuntime
    return kind(bundle, open_backend, context_length=context_length)
