"""Pieces of an answer on their way out of an engine's process, a few at a time where they come fast."""

import time
from collections.abc import Callable

from bmqwen.generate.params import Piece

# Sending costs the engine time that it computes in, on a machine with few cores 5 % of it at 100 tokens a second.
# Nobody reads faster than this.
SECONDS = 0.06


class Gathered:
    """Sends the first piece at once and those that follow within SECONDS together.

    A piece waits until the next one comes, or `flush`.
    """

    def __init__(self, send: Callable[[Piece], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._send, self._clock = send, clock
        self._held: list[Piece] = []
        self._sent = float("-inf")

    def add(self, piece: Piece) -> None:
        """Take a piece, and send what is held if it is time."""
        self._held.append(piece)
        if self._clock() - self._sent >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            text = "".join(piece.text for piece in self._held)
            logprobs = tuple(item for piece in self._held for item in piece.logprobs)
            self._held.clear()
            self._send(Piece(text, logprobs))
            self._sent = self._clock()
