"""The sampling parameters as settings that a user can see and change by name."""

import dataclasses
import difflib
import shlex
from typing import Any

from bmqwen.errors import InputError
from bmqwen.generate.params import SamplingParams

_WHOLE = ("top_k", "seed", "max_tokens")
NAMES = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "seed",
    "stop",
)


def settings_text(params: SamplingParams) -> str:
    """All settings, a line each."""
    return "\n".join(f"  {name:<20}{_shown(getattr(params, name))}" for name in NAMES)


def changed(params: SamplingParams, text: str) -> tuple[SamplingParams, str]:
    """Apply "temperature 0.7"; returns the new parameters and a line that says what they are now.

    The value "default" or "none" takes a setting back. Raises InputError for an unknown name or a bad value.
    """
    written, _, value = text.replace("=", " ", 1).strip().partition(" ")
    name = written.lower().replace("-", "_")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise InputError(f"unknown setting {written[:40]}: {hint}")
    if not value.strip():
        return params, f"{name} is {_shown(getattr(params, name))}"
    params = dataclasses.replace(params, **{name: _parse(name, value.strip())})
    return params, f"{name} is now {_shown(getattr(params, name))}"


def _parse(name: str, value: str) -> Any:
    if value.lower() in ("default", "none", "off"):
        return getattr(SamplingParams(), name)
    try:
        if name == "stop":
            return tuple(shlex.split(value))
        return int(value) if name in _WHOLE else float(value)
    except ValueError:
        kind = "text in quotes" if name == "stop" else "a whole number" if name in _WHOLE else "a number"
        raise InputError(f"{name} must be {kind}, not {value[:40]}") from None


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    return " ".join(shlex.quote(text) for text in value) if isinstance(value, tuple) else f"{value}"
