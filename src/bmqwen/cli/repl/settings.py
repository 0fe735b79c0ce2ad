"""The sampling parameters as settings that a user can see and change by name."""

import difflib
from dataclasses import replace

from bmqwen.errors import InputError
from bmqwen.generate.params import PARAMETERS, SamplingParams

_ROWS = {row.name: row for row in PARAMETERS}
NAMES = tuple(_ROWS)


def settings_text(params: SamplingParams) -> str:
    """Return all settings, a line each."""
    return "\n".join(f"  {name:<20}{row.text(getattr(params, name))}" for name, row in _ROWS.items())


def changed(params: SamplingParams, text: str, defaults: SamplingParams) -> tuple[SamplingParams, str]:
    """Apply "temperature 0.7"; return the new parameters, and a line that says what they are now.

    The value "default" takes a setting back to that of `defaults`, "none" turns it off.
    Raises InputError for an unknown name or a bad value.
    """
    written, _, value = text.replace("=", " ", 1).strip().partition(" ")
    name, value = written.lower().replace("-", "_"), value.strip()
    row = _ROWS.get(name)
    if row is None:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise InputError(f"unknown setting {written[:40]}: {hint}")
    if not value:
        return params, f"{name} is {row.text(getattr(params, name))}"
    match value.lower():
        case "default":
            new = getattr(defaults, name)
        case "none" | "off":
            new = row.default
        case _:
            new = row.parse(value)
    params = replace(params, **{name: new})
    return params, f"{name} is now {row.text(getattr(params, name))}"
