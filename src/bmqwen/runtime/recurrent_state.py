"""The state of layers that keep no rows of tokens. It goes forward only: copies of it are what one can go back to."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import ModelConfig

# Copies that are kept: of the ends of the last prompts, and of a little before them. Each is as large as the state,
# 19 MB for Qwen3.5-2B.
_MOST_KEPT = 4
# The position of a state that is not known: later than any copy.
LOST = 1 << 62


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the state after `position` tokens; its arrays, in the runtime's own type, never change."""

    position: int
    arrays: tuple[NDArray[Any], ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


class RecurrentState(ABC):
    """The state of one sequence, which is empty at first, and copies of it. A subclass says where it lies.

    Attributes:
        position: tokens that the state has seen.
    """

    def __init__(self) -> None:
        self._kept: list[Snapshot] = []
        self.position = 0

    @abstractmethod
    def _read(self) -> tuple[NDArray[Any], ...]:
        """Return a copy of it."""

    @abstractmethod
    def _write(self, arrays: tuple[NDArray[Any], ...] | None) -> None:
        """Put a copy in its place; None: that of no tokens."""

    def keep(self, chunk: int = 0) -> None:
        """Keep a copy, in place of the one a whole `chunk` before: that was in the middle of the same prompt."""
        kept = [one for one in self._kept if self.position - one.position not in (0, chunk)]
        self._kept = [*kept, Snapshot(self.position, self._read())][-_MOST_KEPT:]

    def go_back(self, position: int) -> None:
        """Go to the newest copy of at most `position` tokens, else to the beginning; forget later copies."""
        self._kept = [one for one in self._kept if one.position <= position]
        if self.position <= position:
            return
        last = self._kept[-1] if self._kept else None
        self._write(None if last is None else last.arrays)
        self.position = 0 if last is None else last.position

    def save(self) -> tuple[Snapshot, ...]:
        """Return all copies, the last one of the state now."""
        self.keep()
        return tuple(self._kept)

    def load(self, saved: tuple[Snapshot, ...], position: int) -> None:
        """Take over what `save` returned, and go back to at most `position` tokens."""
        self._kept = list(saved)
        self.position = LOST
        self.go_back(position)


class HostState(RecurrentState):
    """That of ONNX Runtime, in two places: a step reads one and writes the other, so that it can fail."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.linear_sizes
        shapes = {"conv": sizes.conv_state, "delta": sizes.delta_state}
        self._names = [f"{layer}.{part}" for layer in config.state_layers for part in shapes]
        self._places = [
            [np.zeros((1, *shapes[name.split(".")[1]]), np.float32) for name in self._names] for _ in range(2)
        ]

    def bind(self, binding: Any) -> None:
        """Let a run of ONNX Runtime read the one place and write the other."""
        now, after = self._places
        for name, old, new in zip(self._names, now, after, strict=True):
            binding.bind_input(f"past_state.{name}", "cpu", 0, np.float32, old.shape, old.ctypes.data)
            binding.bind_output(f"present.{name}", "cpu", 0, np.float32, new.shape, new.ctypes.data)

    def advance(self, position: int) -> None:
        """Take what a run wrote as the state after `position` tokens."""
        self._places.reverse()
        self.position = position

    def _read(self) -> tuple[NDArray[Any], ...]:
        return tuple(array.copy() for array in self._places[0])

    def _write(self, arrays: tuple[NDArray[Any], ...] | None) -> None:
        for index, array in enumerate(self._places[0]):
            array[:] = 0 if arrays is None else arrays[index]
