"""Where the inputs and outputs of all step nets lie on the chip: one region, in which equal K/V rows are one."""

import json
import math
from collections.abc import Sequence
from typing import Any

from bmqwen.artifact.steps import StepShape
from bmqwen.model.config import ModelConfig

PAGE = 4096
LINE = 256
# Room for weights that are larger than their arithmetic size. Only numbers: memory is taken when it is used.
WEIGHTS_MARGIN = 1.15
WEIGHTS_ROOM = 256 << 20
HALF = 2


class AddressMap:
    """Addresses as tpuc-opt's `use_io_alone_config` reads them.

    A layer's keys (and its values) are one area of rows, the same for all nets. A net's history is the area's
    beginning, and its new rows follow; a net without history writes from the beginning on, or behind the longest
    history if it is for several sequences, and the row that it names without looking at it lies before.

    Attributes:
        size: bytes of the region, the same for every net.
        cache: those of them that hold K/V rows.
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
        for _ in range(2 * config.num_hidden_layers):
            self.size += _pages(self._row)
            self._areas.append(self._place(self._row * rows))
        self.cache = len(self._areas) * _pages(self._row * rows)
        results = max(shape.rows for shape in shapes)
        self._token = self._place(4 * results)
        self._logits = self._place(4 * config.width * results)

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
        results = shape.rows * self._config.width or self._config.hidden_size
        outputs = [
            _entry("token_id", start + self._token, 4 * (shape.rows or 1)),
            # The compiler's name for logits that it converts to float for the choice of the token.
            _entry("logitstoken_id_f32", start + self._logits, 4 * results),
        ]
        for i, place in enumerate(self._areas):
            area = start + place
            name = f"{'kv'[i % 2]}.{i // 2}"
            landing = area + self._row * shape.landing(self._longest)
            before = area if history else landing - self._row
            inputs.append(_entry(f"history_{name}", before, self._row * (history or 1)))
            output = f"{'kv'[i % 2]}_cache.{i // 2}"
            outputs.append(_entry(output, landing, self._row * tokens))
        stated = {"io_addr": start, "io_size": self.size, "inputs": inputs, "outputs": outputs}
        return json.dumps(stated, indent=1)

    def _place(self, size: int) -> int:
        """Take room at the region's end; where it begins."""
        place = self.size
        self.size += _pages(size)
        return place


def _inputs(config: ModelConfig, shape: StepShape) -> dict[str, int]:
    """Bytes of a net's small inputs, each a whole number of lines. They lie side by side: one copy brings them all."""
    sizes = {"input_states": HALF * shape.tokens * config.hidden_size}
    for name, dims in shape.inputs.items():
        sizes[name] = (HALF if name == "attention_mask" else 4) * math.prod(dims)
    return {name: -(-size // LINE) * LINE for name, size in sizes.items()}


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _entry(name: str, address: int, size: int) -> dict[str, Any]:
    return {"name": name, "address": address, "size": size}
