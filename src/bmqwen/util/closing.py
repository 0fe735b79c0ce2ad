"""What is closed after use."""

from typing import TypeVar

C = TypeVar("C", bound="Closing")


class Closing:
    """A base of what may stand in a `with` statement, which closes it."""

    def close(self) -> None:
        """Close it. May be called twice."""
        raise NotImplementedError

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
