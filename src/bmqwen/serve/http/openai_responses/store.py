"""The responses that were given, for requests that go on from one or ask for it again."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bmqwen.errors import NotFoundError, RequestError

MOST_RESPONSES = 200
MOST_CHARACTERS = 8_000_000


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response.

    Attributes:
        messages: the conversation up to it, its answer included, as messages of a chat.
        body: what was sent.
        input: the items that were asked with.
    """

    messages: Sequence[Mapping[str, Any]]
    body: Mapping[str, Any]
    input: Sequence[Mapping[str, Any]]


class ResponseStore:
    """Keeps responses in memory; those of an owner that are oldest make room.

    Owners never see each other's.
    """

    def __init__(self, responses: int = MOST_RESPONSES, characters: int = MOST_CHARACTERS) -> None:
        """Keep so many responses of each owner, and so many characters."""
        self._responses, self._characters = responses, characters
        self._kept: dict[str, OrderedDict[str, tuple[KeptResponse, int]]] = {}

    def put(self, owner: str, name: str, response: KeptResponse) -> None:
        """Keep a response."""
        size = sum(len(json.dumps(part)) for part in (response.messages, response.body, response.input))
        kept = self._kept.setdefault(owner, OrderedDict())
        kept[name] = response, size
        while len(kept) > self._responses or sum(size for _, size in kept.values()) > self._characters:
            kept.popitem(last=False)

    def find(self, owner: str, name: str) -> KeptResponse:
        """Return a response. Raises NotFoundError for one that is not there, or no longer."""
        kept = self._kept.get(owner, OrderedDict())
        if name not in kept:
            raise NotFoundError(self._missing(name))
        return kept[name][0]

    def before(self, owner: str, name: str) -> Sequence[Mapping[str, Any]]:
        """Return the messages that a request goes on from. Raises RequestError for a response that is not there."""
        try:
            return self.find(owner, name).messages
        except NotFoundError:
            missing = f"{self._missing(name)}; send the whole conversation as input"
            raise RequestError(missing, "previous_response_id") from None

    def remove(self, owner: str, name: str) -> None:
        """Forget a response. Raises NotFoundError as `find` does."""
        self.find(owner, name)
        del self._kept[owner][name]

    def _missing(self, name: str) -> str:
        return (
            f"there is no response {name[:80]!r} here, or no longer: this server keeps the last {self._responses} in "
            "memory"
        )
