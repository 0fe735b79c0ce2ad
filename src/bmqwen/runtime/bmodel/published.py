"""Runs the vendor's published bmodels, one net a layer, behind the same protocol as our own."""

from collections.abc import Sequence

import numpy as np

from bmqwen.artifact.bundle import Bundle
from bmqwen.runtime.base import Feed, HostOutput, Output, check_step
from bmqwen.runtime.bmodel.backend import BackendOpener, DeviceBackend
from bmqwen.runtime.bmodel.loaded_bmodel import DeviceOutput, LoadedBmodel
from bmqwen.runtime.bmodel.published_nets import PublishedNets

# Reading a whole prompt costs as much as about six single tokens (published: 0.191 s against 31 ms), so more new
# tokens than that are cheaper read together with all that the cache holds already.
PROMPT_COST = 6


class PublishedRuntime(LoadedBmodel[PublishedNets]):
    """A `bmqwen.runtime.base.Runtime` of a bundle whose details have the layout "sophon-demo"."""

    def __init__(
        self, bundle: Bundle, open_backend: BackendOpener, *, context_length: int | None = None
    ) -> None:
        """Load the bundle; arguments and errors are those of `StepRuntime`."""
        (part,) = bundle.parts

        def opened() -> DeviceBackend:
            return open_backend(part.bmodel, part.device_bytes)

        super().__init__(
            bundle, opened, context_length, lambda backend: PublishedNets(backend, bundle.config)
        )

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        """All together where that pays, else one token at a time."""
        del beside, waiting  # no other sequence is there
        return count if _together(self.position(sequence), count) else 1

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        check_step(self, feeds)
        return [self._run(feed) for feed in feeds]

    def _run(self, feed: Feed) -> DeviceOutput | HostOutput:
        known, nets, count = self._tokens[feed.sequence], self._device_nets, len(feed.tokens)
        self._begin_step()
        together, rows = _together(len(known), count), []
        if together:
            nets.run_prompt([*known, *feed.tokens])
        for i, token in enumerate(feed.tokens):
            if not together:
                self._check_interrupt()
                nets.run_token(token, len(known) + i)
            if feed.every_row or i == count - 1:
                nets.run_head(len(known) + i if together else 0)
            if feed.every_row:
                rows.append(nets.logits()[0])
        known.extend(feed.tokens)
        return (
            HostOutput(np.stack(rows))
            if feed.every_row
            else DeviceOutput(self, lambda: [nets.token_id()], nets.logits)
        )


def _together(position: int, count: int) -> bool:
    """Whether `count` tokens after `position` are cheaper read as one prompt with those before."""
    return count > PROMPT_COST or (position == 0 and count > 1)
