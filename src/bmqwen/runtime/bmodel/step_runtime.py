"""Runs a bmodel bundle of step nets on a device: one launch a token, four bytes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import EMBEDDING_FILE, Bundle
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.errors import BundleError
from bmqwen.runtime.base import Feed, HostOutput, Output, check_step, chosen_context
from bmqwen.runtime.bmodel.backend import BackendOpener
from bmqwen.runtime.bmodel.loaded_bmodel import DeviceOutput, LoadedBmodel
from bmqwen.runtime.bmodel.published import PublishedRuntime
from bmqwen.runtime.bmodel.step_stages import StepStages
from bmqwen.util.float16 import from_half, to_half

# Tokens of a prompt that are read in about the time that a token of an answer takes.
MOST_BESIDE = 64
# Plans that are remembered.
MOST_PLANS = 1024


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one launch computed.

    Attributes:
        token_id: the most likely token.
        logits: float32 [vocab].
        rows: new rows of K/V, float32 [2 * layers, tokens, kv_heads, head_dim], a layer's keys before its values.
    """

    token_id: int
    logits: NDArray[np.float32]
    rows: NDArray[np.float32]


class StepRuntime(LoadedBmodel[StepStages]):
    """A `bmqwen.runtime.base.Runtime` of a bmodel bundle on a chip, or in the simulator's process."""

    def __init__(
        self, bundle: Bundle, open_backend: BackendOpener, *, context_length: int | None = None
    ) -> None:
        """Load the bundle.

        Args:
            bundle: of the kind "bmodel".
            open_backend: opens the device with the bundle's bmodel.
            context_length: most tokens to keep; None: what the nets were compiled for.

        Raises:
            BundleError: its files do not fit together.
            InputError: context length out of range.
            MissingDependencyError: no libraries.
            DeviceError: no device, not enough memory, or a refused bmodel.
        """
        self._plans: dict[tuple[int, int], list[tuple[StepShape, int]]] = {}
        self._nets = nets = StepNets.from_dict(bundle.details, str(bundle.folder))
        # Said before loading, which takes a while.
        chosen_context(context_length, nets.context, "the bundle's")
        config = bundle.config
        self._embedding = map_embedding(bundle.path(EMBEDDING_FILE), config.vocab_size, config.hidden_size)
        super().__init__(
            bundle, open_backend, context_length, lambda backend: StepStages(backend, nets, config)
        )

    def piece(self, sequence: int, count: int, beside: int = 0) -> int:
        """What the first of as few launches as pay takes."""
        position = self.position(sequence)
        (shape, used), *_ = self._plan(position, count)
        if beside and shape.tokens > MOST_BESIDE:
            (_, used), *_ = self._plan(position, min(MOST_BESIDE, count))
        return used

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens: as few launches as pay, or one a token with `every_row`."""
        check_step(self, feeds)
        return [self._run(feed) for feed in feeds]

    def _run(self, feed: Feed) -> DeviceOutput | HostOutput:
        known, tokens, every_row = self._tokens[feed.sequence], feed.tokens, feed.every_row
        self._begin_step()
        position, count, done = len(known), len(tokens), 0
        rows = np.empty((count if every_row else 0, self.vocab_size), np.float32)
        for shape, used in self._singly(position, count) if every_row else self._plan(position, count):
            self._check_interrupt()
            self._launch(shape, position + done, tokens[done : done + used])
            if every_row:
                rows[done] = self._device_nets.logits(shape)[0]
            done += used
        known.extend(tokens)
        return HostOutput(rows) if every_row else self._output(shape)

    def _plan(self, position: int, count: int) -> list[tuple[StepShape, int]]:
        """As `StepNets.plan`, once for a prompt: what is left of a plan is the plan of what is left."""
        if (position, count) not in self._plans:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            pieces, at = self._nets.plan(position, count), position
            for i, (_, used) in enumerate(pieces):
                self._plans[at, position + count - at] = pieces[i:]
                self._plans[at, used] = pieces[i : i + 1]
                at += used
        return self._plans[position, count]

    def run_stage(self, shape: StepShape, tokens: Sequence[int], cache: NDArray[np.float32]) -> StageResult:
        """Launch one stage with a cache of the caller's; the tokens cached so far are lost.

        Args:
            shape: which stage.
            tokens: as many as it takes.
            cache: float32 [2 * layers, n, kv_heads, head_dim]: n cached rows, a layer's keys before its values.
        """
        position, count = cache.shape[1], len(tokens)
        self._serial += 1
        self._tokens[0].clear()
        if position:
            self._device_nets.write_rows(0, to_half(cache, self._nets.half))
        self._launch(shape, position, tokens)
        token, logits = self._device_nets.token_id(shape), self._device_nets.logits(shape)[0]
        rows = from_half(self._device_nets.read_rows(position, count), self._nets.half)
        return StageResult(token, logits, rows)

    def _output(self, shape: StepShape) -> DeviceOutput:
        nets = self._device_nets
        return DeviceOutput(self, partial(nets.token_id, shape), partial(nets.logits, shape))

    def _launch(self, shape: StepShape, position: int, tokens: Sequence[int]) -> None:
        self._device_nets.launch(shape, position, self._embedding[np.asarray(tokens, np.int64)])

    def _singly(self, position: int, count: int) -> Iterator[tuple[StepShape, int]]:
        """The nets that take one token each, as a plan."""
        for at in range(position, position + count):
            shape = self._nets.shape(1, at)
            if shape is None:
                raise BundleError(f"the bundle has no net for one token after {at}")
            yield shape, 1


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
    """Load a bundle of the kind "bmodel", a published one or bmqwen's; arguments and errors as `StepRuntime`."""
    kind = PublishedRuntime if bundle.is_published else StepRuntime
    return kind(bundle, open_backend, context_length=context_length)
