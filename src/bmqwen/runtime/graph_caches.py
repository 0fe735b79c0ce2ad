"""A graph's caches bound to places of K/V memory; past and present are the same memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import ModelConfig
from bmqwen.runtime.kv_memory import KvMemory

# Bindings that are kept; each takes 0.1 MB, and a millisecond to make.
MOST = 64


class GraphCaches:
    """Makes ONNX Runtime's bindings of a session, and keeps those that were used last."""

    def __init__(self, session: Any, config: ModelConfig, kv: KvMemory, *, pieces: bool) -> None:
        """`pieces`: the graph has a cache for a piece of a prompt beside that of answers."""
        self._session, self._config, self._kv, self._pieces = session, config, kv, pieces
        self._bindings: dict[tuple[int, int, int | None], Any] = {}

    def binding(self, place: int, batch: int, piece_place: int | None) -> Any:
        """Return the one for `batch` sequences from a place on, and for a piece of a prompt at another place."""
        key = place, batch, piece_place
        if (binding := self._bindings.pop(key, None)) is None:
            binding = self._made(place, batch, piece_place)
            if len(self._bindings) >= MOST:
                del self._bindings[next(iter(self._bindings))]
        # The one that was used longest ago is the first.
        self._bindings[key] = binding
        return binding

    def close(self) -> None:
        """Forget them and the session."""
        self._session = None
        self._bindings.clear()

    def _made(self, place: int, batch: int, piece_place: int | None) -> Any:
        binding = self._session.io_binding()

        def bind(past: str, present: str | None, part: NDArray[np.float32]) -> None:
            args = ("cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_input(past, *args)
            if present is not None:
                binding.bind_output(present, *args)

        for index, rows in enumerate(self._kv.rows):
            name = f"{self._config.kv_layers[index // 2]}.{('key', 'value')[index % 2]}"
            bind(f"past_key_values.{name}", f"present.{name}", rows[place : place + batch])
            if piece_place is not None:
                own = rows[piece_place : piece_place + 1]
                bind(f"past_piece.{name}", f"present_piece.{name}", own)
            elif self._pieces:
                # Any memory serves as the past of no piece, and its present is not asked for.
                bind(f"past_piece.{name}", None, rows[place : place + 1])
        return binding
