"""Numbers in plain English, and small questions about text."""

_UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def counted(number: int, noun: str) -> str:
    """Return "1 thread", "2,048 threads"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_line(error: BaseException, limit: int = 120) -> str:
    """Return the first line of what an error of a library says; its class where it says nothing."""
    return str(error).strip().partition("\n")[0][:limit] or type(error).__name__


def size_text(count: float, unit: str = "") -> str:
    """Return a number of bytes as text in powers of 1,000: "491 MB", "2.47 GB".

    Sizes that are compared have one `unit`: "7,985 MB".
    """
    unit = unit or next((name for name, size in _UNITS.items() if count < 1000 * size), "GB")
    value = count / _UNITS[unit]
    return f"{value:,.{0 if unit != 'GB' else 1 if value >= 10 else 2}f} {unit}"


def speed_text(tokens_per_s: float) -> str:
    """Return "41.3 tokens/s"; where that would say nothing, "about 60 s a token"."""
    if tokens_per_s >= 1:
        return f"{tokens_per_s:.1f} tokens/s"
    seconds = 1 / tokens_per_s if tokens_per_s > 0 else 0
    return f"about {seconds:,.1f} s a token" if seconds < 10 else f"about {seconds:,.0f} s a token"


def duration_text(seconds: float) -> str:
    """Return seconds in words: "45 s", "3 min 20 s"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds / 10) * 10, 60)
    return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"


def overlap(text: str, other: str) -> int:
    """Return the length of the longest end of `text` that begins `other` and is not all of it."""
    lengths = range(min(len(text), len(other) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(other[:length])), 0)
