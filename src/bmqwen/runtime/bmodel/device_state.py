"""The state of a model's recurrent layers in the memory of a device."""

from typing import Any

from numpy.typing import NDArray

from bmqwen.runtime.bmodel.step_stages import StepStages
from bmqwen.runtime.recurrent_state import LOST, RecurrentState

# The last tokens of a prompt, which the state has not seen when the answer begins: the same prompt with another end,
# such as the next turn's, which has this answer without its thoughts, goes on from before them. They are read again
# with the answer's first token, by the net of 8.
TAIL = 7


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

    def lose(self) -> None:
        """Take in that a launch failed, which may have changed it."""
        self.position = LOST

    def _read(self) -> tuple[NDArray[Any], ...]:
        return self._nets.read_states()

    def _write(self, arrays: tuple[NDArray[Any], ...] | None) -> None:
        self._nets.write_states(arrays)
