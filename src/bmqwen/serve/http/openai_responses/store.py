"""The conversations that responses end, for requests that go on from one."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from bmqwen.errors import RequestError

Messages = tuple[Mapping[str, Any], ...]

MOST_RESPONSES = 200
MOST_CHARACTERS = 8_000_000


class ResponseStore:
    """Keeps the messages up to each response in memory; those of an owner that are oldest make room.

    Owners never see each other's.
    """

    def __init__(self, responses: int = MOST_RESPONSES, characters: int = MOST_CHARACTERS) -> None:
        """Keep so many responses of each owner, and so many characters."""
        self._responses, self._characters = responses, characters
        self._kept: dict[str, OrderedDict[str, tuple[Messages, int]]] = {}

    def put(self, owner: str, response: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Keep a response's conversation, its answer included."""
        size = sum(len(str(message)) for message in messages)
        kept = self._kept.setdefault(owner, OrderedDict())
        kept[response] = tuple(messages), size
        while len(kept) > self._responses or sum(size for _, size in kept.values()) > self._characters:
            kept.popitem(last=False)

    def find(self, owner: str, response: str) -> Messages:
        """Return a conversation. Raises RequestError for one that is not there, or no longer."""
        kept = self._kept.get(owner, OrderedDict())
        if response not in kept:
            raise RequestError(
                f"there is no response {response[:80]!r} here, or no longer: this server keeps the last "
                f"{self._responses} in memory; send the whole conversation as input",
                "previous_response_id",
            )
        return kept[response][0]
