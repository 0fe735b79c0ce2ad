"""Where the inputs and outputs of all step nets lie on the chip: one region, in which equal K/V rows are one."""

import json
import math
from collections.abc import Sequence
from typing import Any

from bmqwen.artifact.states import (
    COMMITTED,
    HALF,
    MASKS,
    copied_states,
    is_convolution,
    state_inputs,
    state_names,
    written_name,
)
from bmqwen.artifact.steps import StepShape
from bmqwen.model.config import ModelConfig

PAGE = 4096
LINE = 256
# Room for weights that are larger than their arithmetic size. Only numbers: memory is taken when it is used.
WEIGHTS_MARGIN = 1.15
WEIGHTS_ROOM = 256 << 20
_HALVES = ("attention_mask", COMMITTED)


class AddressMap:
    """Addresses as tpuc-opt's `use_io_alone_config` reads them.

    A layer's keys (and its values) are one area of rows, the same for all nets. A net's history is the area's
    beginning, and its new rows follow; a net without history writes from the beginning on, or behind the longest
    history if it is for several sequences, and the row that it names without looking at it lies before.

    Attributes:
        size: bytes of the region, the same for every net.
        cache: those of them that hold K/V rows.
        state: those that hold the states of recurrent layers.
    """

    def __init__(self, config: ModelConfig, shapes: Sequence[StepShape]) -> None:
        """Lay the region out for a model, with the layers that are compiled, and the shapes of all its nets."""
        self._config = config
        self._row = HALF * config.kv_size
        self.size = 0
        self._data = self._place(max(sum(_inputs(config, shape).values()) for shape in shapes))
        self._longest = max(shape.history for shape in shapes)
        rows = max(shape.landing(self._longest) + shape.tokens for shape in shapes)
        self._areas = []
        for _ in range(2 * len(config.kv_layers)):
            self.size += _pages(self._row)
            self._areas.append(self._place(self._row * rows))
        self.cache = len(self._areas) * _pages(self._row * rows)
        start, tokens = self.size, max(shape.tokens for shape in shapes)
        self._states = {
            name: self._place_state(name, dims, tokens) for name, dims in state_names(config).items()
        }
        self.state = self.size - start
        masks = {state_inputs(config, shape).get(MASKS) for shape in shapes} - {None}
        self._masks = {dims: self._place(HALF * math.prod(dims)) for dims in sorted(filter(None, masks))}
        sizes = [_results(config, shape) for shape in shapes]
        self._results = [self._place(max(sizes)) for sizes in zip(*(s.values() for s in sizes), strict=True)]

    def text(self, shape: StepShape, weights: int, memory_start: int) -> str:
        """Return the addresses of one net's inputs and outputs, as JSON.

        They lie behind the weights, of about so many bytes, which begin at the chip's first address.
        """
        start = memory_start + _pages(int(weights * WEIGHTS_MARGIN)) + WEIGHTS_ROOM
        tokens, history = shape.tokens, shape.history
        inputs, address = [], start + self._data
        for name, size in _inputs(self._config, shape).items():
            inputs.append(_entry(name, address, size))
            address += size
        results = _results(self._config, shape)
        outputs = [
            _entry(name, start + place, size)
            for (name, size), place in zip(results.items(), self._results, strict=True)
        ]
        for i, place in enumerate(self._areas):
            area, layer = start + place, self._config.kv_layers[i // 2]
            name = f"{'kv'[i % 2]}.{layer}"
            landing = area + self._row * shape.landing(self._longest)
            before = area if history else landing - self._row
            inputs.append(_entry(f"history_{name}", before, self._row * (history or 1)))
            output = f"{'kv'[i % 2]}_cache.{layer}"
            outputs.append(_entry(output, landing, self._row * tokens))
        copied = copied_states(self._config, tokens)
        for name, (before, after, size) in self._states.items():
            inputs.append(_entry(name, start + before, size))
            outputs.append(_entry(written_name(name), start + (after if name in copied else before), size))
        if dims := state_inputs(self._config, shape).get(MASKS):
            inputs.append(_entry(MASKS, start + self._masks[dims], HALF * math.prod(dims)))
        stated = {"io_addr": start, "io_size": self.size, "inputs": inputs, "outputs": outputs}
        return json.dumps(stated, indent=1)

    def _place_state(self, name: str, dims: Sequence[int], tokens: int) -> tuple[int, int, int]:
        """Where a state lies, where a net puts the one after it, which is copied from there, and the bytes of either.

        The step's rows follow those that a convolution remembers: the compiler joins them in place.
        """
        size = HALF * math.prod(dims)
        rows = HALF * tokens * dims[-1] if is_convolution(name) else 0
        return self._place(size + rows), self._place(size), size

    def _place(self, size: int) -> int:
        """Take room at the region's end; where it begins."""
        place = self.size
        self.size += _pages(size)
        return place


def _inputs(config: ModelConfig, shape: StepShape) -> dict[str, int]:
    """Bytes of a net's small inputs, each a whole number of lines. They lie side by side: one copy brings them all."""
    told = state_inputs(config, shape)
    # It stays where it is.
    told.pop(MASKS, None)
    sizes = {"input_states": HALF * shape.tokens * config.hidden_size}
    for name, dims in (shape.inputs | told).items():
        sizes[name] = (HALF if name in _HALVES else 4) * math.prod(dims)
    return {name: -(-size // LINE) * LINE for name, size in sizes.items()}


def _results(config: ModelConfig, shape: StepShape) -> dict[str, int]:
    """Bytes of what a net computes besides K/V rows, by the compiler's names."""
    rows, width = shape.rows or 1, config.hidden_size
    if not config.is_last:
        return {"hidden": HALF * shape.tokens * width, "last_hidden": HALF * rows * width}
    # Logits are named so where they are converted to float for the choice of the token.
    return {"token_id": 4 * rows, "logitstoken_id_f32": 4 * (shape.rows * config.width or width)}


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _entry(name: str, address: int, size: int) -> dict[str, Any]:
    return {"name": name, "address": address, "size": size}
