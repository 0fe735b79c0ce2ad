"""Errors in OpenAI's shape: the one place where they become HTTP answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json
from starlette.responses import Response

from bmqwen.errors import BmqwenError, BusyError, RequestError, UnsupportedFieldError
from bmqwen.serve.http.fields import PARTS_REFUSED, REFUSED, Body
from bmqwen.serve.http.responses import AnthropicErrorAnswer, ErrorAnswer, OllamaErrorAnswer

# OpenAI's names for families of errors; what is not listed is the server's own.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
# Complaints about fields of OpenAI's that may only have the value which changes nothing.
_NEUTRAL_ONLY = ("none_required", "literal_error", "value_error")
_ROLES = ("system", "developer", "user", "assistant", "tool")
# What parts of messages are called that say so by their type.
_BLOCKS = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")
_LONGEST_VALUE = 80
# What str.splitlines takes for the end of a line, and JSON leaves as it is.
_LINE_ENDS = ("\x85", "\u2028", "\u2029")


def error_body(error: BmqwenError, path: str = "") -> Any:
    """Return an error in the shape of the API that an address belongs to."""
    shape = next((shape for prefix, shape in SHAPES.items() if path.startswith(prefix)), _openai)
    return shape(error)


def _openai(error: BmqwenError) -> ErrorAnswer:
    """Return {"error": {message, type, param, code}}."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = getattr(error, "param", None)
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


# Anthropic's names for families of errors.
_ANTHROPIC_TYPES = {
    **_TYPES,
    408: "timeout_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic(error: BmqwenError) -> AnthropicErrorAnswer:
    status = error.http_status
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    answer: AnthropicErrorAnswer = {"type": "error", "error": {"type": kind, "message": str(error)}}
    if getattr(error, "param", None) == "thread":
        # By this Anthropic's SDK goes on without, as it does where their own server cannot keep a conversation.
        answer["error"]["details"] = {
            "error_code": "thread_unsupported_request",
            "unsupported": ["thread"],
        }
    return answer


def _ollama(error: BmqwenError) -> OllamaErrorAnswer:
    return {"error": str(error)}


# Addresses whose API has a shape of its own for errors.
SHAPES: Mapping[str, Callable[[BmqwenError], Any]] = {
    "/v1/messages": _anthropic,
    "/api/info": _openai,
    "/api/": _ollama,
}


def error_response(error: BmqwenError, path: str = "") -> Response:
    """Return the error as an answer of its own, in the shape of the API that the path belongs to."""
    headers = {}
    if isinstance(error, BusyError):
        headers["retry-after"] = str(error.retry_after)
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    content = json_bytes(error_body(error, path))
    return Response(content, error.http_status, headers, media_type="application/json")


def json_bytes(body: Any) -> bytes:
    """Encode JSON as UTF-8. Escapes stand for half a surrogate pair, which UTF-8 does not have, and for characters at
    which Python's clients (httpx, requests) end a line, though a stream's JSON goes on behind them."""
    try:
        encoded = to_json(body)
    except PydanticSerializationError:
        return json.dumps(body, separators=(",", ":")).encode()
    for character in _LINE_ENDS:
        encoded = encoded.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return encoded


def refused(details: Sequence[ErrorDetails], path: str = "/v1/chat/completions") -> RequestError:
    """Return what is wrong with a request to an address: the checker's complaint that goes deepest into its body."""
    detail = max(details, key=lambda item: len(item["loc"]))
    place, ctx = list(detail["loc"]), detail.get("ctx", {})
    if place[:1] == ["body"]:
        place = place[1:]
    if detail["type"] == "json_invalid":
        return RequestError(f"the request is not valid JSON: {ctx.get('error', 'it cannot be read')}")
    # An unknown field, which must be null, may have any name: it must not be taken for one of the checker's.
    unknown = place[-1:] if detail["type"] == "none_required" else []
    names = [*_names(place[: len(place) - len(unknown)]), *unknown]
    param = _param(names)
    field = next((part for part in reversed(names) if isinstance(part, str)), "")
    kind, value = detail["type"], detail.get("input")
    if kind == "missing":
        return RequestError(f"{param or 'the body'} is missing", param)
    empty = kind == "too_long" and not ctx["max_length"]
    if field in REFUSED and (names == [field] or empty) and path not in REFUSED[field]:
        return UnsupportedFieldError(f"{param} is not supported: {REFUSED[field]}", param)
    if kind == "none_required":
        return UnsupportedFieldError(f"{param} is not a field that this server knows; leave it out", param)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(ctx.get("discriminator", "")).strip("'")
        known = ctx.get("expected_tags", "")
        tag, known = "type" if tag.endswith("()") else tag, known.replace(" item'", "'")
        given = value.get(tag) if isinstance(value, dict) else None
        param = f"{param}.{tag}" if param else tag
        if isinstance(given, str) and given in PARTS_REFUSED:
            return UnsupportedFieldError(f"{param} is {_short(given)}: {PARTS_REFUSED[given]}", param)
        return RequestError(f"{param} is {_short(given)}, but must be one of {known}", param)
    if field == "type" and "content" in names:
        reason = PARTS_REFUSED.get(str(value), "this model reads only text parts")
        return UnsupportedFieldError(f"{param} is {_short(value)}: {reason}", param)
    if kind in _NEUTRAL_ONLY or empty:
        return UnsupportedFieldError(
            f"{param} is {_short(value)}, which this server does not support; leave it out", param
        )
    if not names and kind in ("model_attributes_type", "dict_type", "model_type"):
        return RequestError(f"the body is {_short(value)}, but must be a JSON object")
    if kind == "too_long":
        return RequestError(
            f"{param} has {ctx['actual_length']} entries, but at most {ctx['max_length']} are allowed", param
        )
    if kind == "too_short" and not value:
        return RequestError(f"{param} is empty: at least one entry is needed", param)
    message = str(detail["msg"]).replace(" after validation", "")
    words = message[:1].lower() + message[1:]
    return RequestError(f"{param or 'the body'} is {_short(value)}: {words}", param)


def validated(body: type[Body], fields: Mapping[str, Any]) -> Body:
    """Return the request that one of another API means; a field that is None is as absent. Raises RequestError."""
    try:
        return body.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise refused(error.errors()) from error


def _names(place: Sequence[int | str]) -> list[int | str]:
    """A place without the checker's names for the members of a union."""
    names: list[int | str] = []
    before: int | str = ""
    for at, part in enumerate(place):
        member = isinstance(part, str) and (
            " " in part
            or part == "[key]"
            or (isinstance(before, int) and part in _ROLES)
            or (isinstance(before, int) and part in _BLOCKS and at + 1 < len(place))
            or before == "response_format"
        )
        if not member:
            names.append(part)
        before = part
    return names


def _param(names: Sequence[int | str]) -> str | None:
    text = ""
    for part in names:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or None


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
