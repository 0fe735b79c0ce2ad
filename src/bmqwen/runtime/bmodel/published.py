"""Runs the vendor's published bmodels, one net a layer, behind the same protocol as our own."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from bmqwen.artifact.bundle import Bundle
from bmqwen.runtime.base import HostOutput, check_feed
from bmqwen.runtime.bmodel.backend import BackendOpener
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
        super().__init__(
            bundle, open_backend, context_length, lambda backend: PublishedNets(backend, bundle.config)
        )

    def read(self, tokens: Sequence[int]) -> Iterator[DeviceOutput]:
        """Append a prompt: all together where that pays, else one token at a time."""
        check_feed(self, tokens)
        size = len(tokens) if _together(self.position, len(tokens)) else 1
        for done in range(0, len(tokens), size):
            yield cast(DeviceOutput, self.feed(tokens[done : done + size]))

    def feed(self, tokens: Sequence[int], *, every_row: bool = False) -> DeviceOutput | HostOutput:
        check_feed(self, tokens)
        before, count, nets = self.position, len(tokens), self._device_nets
        self._begin_feed()
        together, rows = _together(before, count), []
        if together:
            nets.run_prompt([*self._tokens, *tokens])
        for i, token in enumerate(tokens):
            if not together:
                self._check_interrupt()
                nets.run_token(token, before + i)
            if every_row or i == count - 1:
                nets.run_head(before + i if together else 0)
            if every_row:
                rows.append(nets.logits()[0])
        self._tokens.extend(tokens)
        return HostOutput(np.stack(rows)) if every_row else DeviceOutput(self, nets.token_id, nets.logits)


def _together(position: int, count: int) -> bool:
    """Whether `count` tokens after `position` are cheaper read as one prompt with those before."""
    return count > PROMPT_COST or (position == 0 and count > 1)
