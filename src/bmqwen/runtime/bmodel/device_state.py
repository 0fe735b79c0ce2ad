"""The state of a model's recurrent layers in the memory of a device."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from bmqwen.runtime.bmodel.step_stages import StepStages
from bmqwen.runtime.recurrent_state import LOST, RecurrentState

# The last tokens of a prompt, which the state has not seen when the answer begins: the same prompt with another end,
# such as the next turn's, which has this answer without its thoughts, goes on from before them. They are read again
# with the answer's first token, by the net of 8.
TAIL = 7


def committed_tokens(tokens: int, *, ends_prompt: bool) -> int:
    """Return how many of a launch's tokens, from the first one on, the state is to have seen after it.

    A token alone always: the net of one changes the state where it lies.
    """
    return max(0, tokens - TAIL) if ends_prompt and tokens > 1 else tokens


class DeviceState(RecurrentState):
    """A `RecurrentState` that launches change where it lies; copies are on the host."""

    def __init__(self, nets: StepStages) -> None:
        super().__init__()
        self._nets = nets
        self._wanted = False

    def advance(self, tokens: int, *, keep: bool) -> None:
        """Take in that a launch is on its way after which the state has seen so many tokens more.

        With `keep` it is one to come back to, of which `settle` then makes a copy.
        """
        self.position += tokens
        self._wanted = keep

    def settle(self, position: int) -> None:
        """Make the copy that is due, now that no result waits for it; then go back to at most `position` tokens."""
        if self._wanted and self.position != LOST:
            self.keep()
        self._wanted = False
        self.go_back(position)

    def replace(self, arrays: Sequence[NDArray[Any]] | None) -> None:
        """Put arrays of another's in its place, None: those of no tokens; it and its copies are lost."""
        self._kept, self.position = [], LOST
        self._write(arrays)

    def lose(self) -> None:
        """Take in that a launch failed, which may have changed it."""
        self.position = LOST

    def _read(self) -> tuple[NDArray[Any], ...]:
        return self._nets.read_states()

    def _write(self, arrays: Sequence[NDArray[Any]] | None) -> None:
        self._nets.write_states(arrays)
