"""A question to a source, with a time limit that holds whatever the network does."""

import threading
import time

from bmqwen.errors import BmqwenError
from bmqwen.hub.catalog import Model
from bmqwen.hub.source import Release, Source


class Inquiry:
    """Asks a source for a model, on a thread that nobody waits for longer than wanted.

    A firewall can make even the look-up of a host's name hang, which no timeout of a client library bounds.

    Args:
        place: whom to ask.
        model: what for.
        patience: seconds that the source may take, for its own timeouts.
    """

    def __init__(self, place: Source, model: Model, patience: float) -> None:
        self.place = place
        self._model = model
        self._patience = patience
        self._answer: Release | BmqwenError | None = None
        self._defect: Exception | None = None
        self._thread = threading.Thread(target=self._ask, name=f"ask {place.title}", daemon=True)
        self._thread.start()

    def answer(self, deadline: float) -> Release | BmqwenError | None:
        """What the source has, or why it has nothing; None after `deadline`, a time of `time.monotonic`."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._defect is not None:
            raise self._defect
        return self._answer

    def _ask(self) -> None:
        try:
            self._answer = self.place.find(self._model, self._patience)
        except BmqwenError as error:
            self._answer = error
        except Exception as error:  # ours: shown where the answer is asked for
            self._defect = error
