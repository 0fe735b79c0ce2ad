"""The server's OpenAPI document, with what depends on the model: which token ids there are."""

from typing import Any

from fastapi import FastAPI

from bmqwen.serve.http.protocol import BIAS_PATTERN, LARGEST_ID


def describe(app: FastAPI, vocab_size: int) -> None:
    """Let the application's document name the vocabulary's size where a request has token ids."""
    made: dict[str, Any] = {}
    inner = app.openapi

    def document() -> dict[str, Any]:
        if not made:
            made.update(_limited(inner(), vocab_size))
        return made

    app.openapi = document  # type: ignore[method-assign]


def numbers_below(limit: int) -> str:
    """A pattern of the decimal numbers from 0 to limit - 1, without leading zeros."""
    last = str(limit - 1)
    choices = ["[0-9]"] if len(last) > 1 else []
    choices += [f"[1-9][0-9]{{{length - 1}}}" for length in range(2, len(last))]
    for place, digit in enumerate(last):
        lowest = 1 if place == 0 and len(last) > 1 else 0
        if int(digit) > lowest:
            rest = len(last) - place - 1
            choices.append(
                f"{last[:place]}[{lowest}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else "")
            )
    return f"^({'|'.join([*choices, last])})$"


def _limited(value: Any, vocab_size: int) -> Any:
    """A document with its token ids limited."""
    if isinstance(value, dict):
        return {key: _limit(key, _limited(item, vocab_size), vocab_size) for key, item in value.items()}
    return [_limited(item, vocab_size) for item in value] if isinstance(value, list) else value


def _limit(key: str, value: Any, vocab_size: int) -> Any:
    if key == "maximum" and value == LARGEST_ID:
        return vocab_size - 1
    if key == "pattern" and value == BIAS_PATTERN:
        return numbers_below(vocab_size)
    if key == "patternProperties" and BIAS_PATTERN in value:
        return {numbers_below(vocab_size): value[BIAS_PATTERN]}
    return value
