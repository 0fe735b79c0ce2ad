"""What a chat template may spend: a budget for all that repeats, grows or is built.

Values are weighed as trees: [x, x] nested forty times is refused before anything walks its 2^40 leaves.
"""

import re
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

_BASE_BUDGET = 20_000_000  # about a second of template code
_MOST_NODES = 200_000  # of one value
INTEGER_BITS = 256


class TemplateLimitError(jinja2.TemplateRuntimeError):
    """The template does more than any honest one."""


class _Budget:
    def __init__(self, units: int) -> None:
        self.units = units


_budget: ContextVar[_Budget] = ContextVar("_budget")


def spend(units: int) -> bool:
    """Take from the running template's budget. Raises TemplateLimitError when it is used up."""
    budget = _budget.get()
    budget.units -= max(units, 0)
    if budget.units < 0:
        raise TemplateLimitError("it loops without end or makes text without bound")
    return True


@contextmanager
def allowance(size: int = 0) -> Iterator[None]:
    """A fresh budget, for a template whose input has `size` characters."""
    token = _budget.set(_Budget(_BASE_BUDGET + 64 * size))
    try:
        yield
    finally:
        _budget.reset(token)


def count_nodes(value: object) -> int:
    """Values in a nested container, each counted as often as it can be reached."""
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        count += 1
        if isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        if count + len(stack) > _MOST_NODES:
            raise TemplateLimitError(f"it makes a value of more than {_MOST_NODES:,} parts")
    return count


def weigh(value: Any) -> Any:
    """Spend what a new value weighs, and return it."""
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, (list, tuple, Mapping)):
        spend(5 * count_nodes(value))
    elif isinstance(value, Sized) and not isinstance(value, jinja2.Undefined):
        spend(1 + len(value))
    elif isinstance(value, int) and value.bit_length() > INTEGER_BITS:
        raise TemplateLimitError("it computes a number that is too large")
    else:
        spend(1)
    return value


def characters(value: object) -> int:
    """About how long a value is as text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (list, tuple, Mapping)):
        count_nodes(value)
    return _length(value)


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Namespace):
        raise SecurityError("a namespace cannot become text")
    if isinstance(value, Mapping):
        return sum(_length(key) + _length(item) + 8 for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(_length(item) + 8 for item in value)
    return 32


def as_text(value: Any) -> str:
    """str(value), paid for."""
    spend(characters(value))
    return str(value)


def before_replace(s: Any, old: Any, new: Any, *_: Any, **_options: Any) -> None:
    """Pay for text.replace, at most one `new` for each `old` that fits in."""
    length = characters(s)
    spend(length + (length // max(1, len(str(old))) + 1) * characters(new))


def before_join(value: Any, d: Any = "", *_: Any, **_options: Any) -> None:
    """Pay for joining items by a separator."""
    if isinstance(value, Sized):
        spend(characters(value) + len(value) * characters(d))


def before_indent(s: Any, width: Any = 4, *_: Any, **_options: Any) -> None:
    """Pay for indenting each line."""
    if (width if isinstance(width, int) else len(str(width))) > 100:
        raise TemplateLimitError("it indents by more than 100 characters")
    spend(101 * (str(s).count("\n") + 1))


def before_format(pattern: str) -> None:
    """Pay for filling a pattern in, whose widths must be small constants."""
    if re.search(r"\d{4,}|%[^%a-zA-Z]*\*|\{[^{}]*\{", pattern):
        raise TemplateLimitError("it formats with a width that is too large or computed")
    spend(1000 * (pattern.count("%") + pattern.count("{")))
