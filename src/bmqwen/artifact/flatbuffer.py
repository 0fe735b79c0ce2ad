"""Reading FlatBuffers: tables whose fields are found by number, in bytes that nobody has checked."""

import struct
from collections.abc import Callable
from typing import TypeVar

_Item = TypeVar("_Item")
# Nothing in a damaged file may make this program read or list more than that.
LONGEST = 1 << 20


class Table:
    """A table in a buffer. Whatever does not fit into the buffer is a ValueError."""

    def __init__(self, data: bytes, place: int) -> None:
        """The table at a byte of `data`."""
        self._data, self._place = data, place
        start = place - self._number("<i", place)
        size = self._number("<H", start)
        self._fields = [self._number("<H", start + 4 + 2 * i) for i in range(max(0, size - 4) // 2)]

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """Return the table that a buffer holds."""
        return cls(data, _unpack("<I", data, 0))

    def integer(self, field: int, form: str = "<i") -> int:
        """Return a number, as `struct` writes its form; 0 where it is left out."""
        place = self._find(field)
        return self._number(form, place) if place else 0

    def text(self, field: int) -> str:
        """Return a string, made fit for a terminal; empty where it is left out."""
        place = self._follow(field)
        if not place:
            return ""
        start, size = place + 4, self._number("<I", place)
        if size > LONGEST:
            raise ValueError("a string is too long")
        if start + size > len(self._data):
            raise ValueError("a string runs out of the buffer")
        text = self._data[start : start + size].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def table(self, field: int) -> "Table | None":
        """Return a table inside; None where it is left out."""
        place = self._follow(field)
        return Table(self._data, place) if place else None

    def tables(self, field: int) -> list["Table"]:
        """Return a list of tables."""
        return self._list(field, 4, lambda place: Table(self._data, place + self._number("<I", place)))

    def numbers(self, field: int, form: str) -> list[int]:
        """Return a list of numbers."""
        return self._list(field, struct.calcsize(form), lambda place: self._number(form, place))

    def pair(self, field: int) -> tuple[int, int]:
        """Return a struct of two 64-bit numbers; zeros where it is left out."""
        place = self._find(field)
        return (self._number("<Q", place), self._number("<Q", place + 8)) if place else (0, 0)

    def _find(self, field: int) -> int:
        offset = self._fields[field] if field < len(self._fields) else 0
        return self._place + offset if offset else 0

    def _follow(self, field: int) -> int:
        place = self._find(field)
        return place + self._number("<I", place) if place else 0

    def _list(self, field: int, width: int, item: Callable[[int], _Item]) -> list[_Item]:
        place = self._follow(field)
        if not place:
            return []
        count = self._number("<I", place)
        if count > LONGEST or count * width > len(self._data):
            raise ValueError("a list is too long")
        return [item(place + 4 + i * width) for i in range(count)]

    def _number(self, form: str, place: int) -> int:
        return _unpack(form, self._data, place)


def _unpack(form: str, data: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("a place before the buffer")
    try:
        return int(struct.unpack_from(form, data, place)[0])
    except struct.error as error:
        raise ValueError("a place behind the buffer") from error
