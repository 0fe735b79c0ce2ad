"""The messages of a request as the chat template takes them."""

import json
from collections.abc import Sequence
from typing import Any

from bmqwen.errors import RequestError
from bmqwen.generate.answer_parts import split_thoughts
from bmqwen.generate.template import Message
from bmqwen.generate.tool_calls import ToolCall
from bmqwen.serve.http.protocol import AssistantMessage, ChatMessage, ToolMessage
from bmqwen.serve.http.tools import CallPart


def read_history(messages: Sequence[ChatMessage], *, thinks: bool = False) -> list[Message]:
    """Return messages for a template; results of calls stand in the order of these, for a template has no ids.

    Of a model that `thinks`, an answer's text may have its thoughts before it: not all clients know reasoning_content.

    Raises RequestError, naming the message, for text that is not valid Unicode, arguments that are no JSON object, and
    results of calls that are not there.
    """
    history: list[Message] = []
    known: dict[str, int] = {}
    results: list[tuple[int, Message]] = []
    for place, message in enumerate(messages):
        param = f"messages[{place}]"
        text = text_of(message)
        check_unicode(text, f"{param}.content")
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in known:
                raise RequestError(
                    f"{param} has the result of the call {message.tool_call_id[:80]!r}, which no message before it "
                    "made: send the answer with that call in its tool_calls as well",
                    f"{param}.tool_call_id",
                )
            results.append((known[message.tool_call_id], Message("tool", text)))
            continue
        history += _in_order(results)
        results = []
        if isinstance(message, AssistantMessage):
            calls = [
                _call(call, f"{param}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls or [])
            ]
            known.update({call.id: len(known) + at for at, call in enumerate(calls)})
            thoughts = message.reasoning_content or ""
            check_unicode(thoughts, f"{param}.reasoning_content")
            if thinks and not thoughts:
                thoughts, text = split_thoughts(text)
            history.append(Message("assistant", text, calls=tuple(calls), thoughts=thoughts))
        else:
            history.append(Message("user" if message.role == "user" else "system", text))
    return history + _in_order(results)


def text_of(message: ChatMessage) -> str:
    """Return a message's text."""
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def check_unicode(text: str, param: str) -> None:
    """Raise RequestError for half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"character {error.start + 1} of {param} is not valid Unicode", param) from None


def _call(part: CallPart, param: str) -> ToolCall:
    arguments: Any = part.function.arguments
    try:
        # Without any is how some clients write none.
        value = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        text = json.dumps(value, ensure_ascii=False)
        check_unicode(text, f"{param}.function.arguments")
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{param}.function.arguments is not JSON: {error}", f"{param}.function.arguments"
        ) from None
    if not isinstance(value, dict):
        raise RequestError(f"{param}.function.arguments must be a JSON object", f"{param}.function.arguments")
    return ToolCall(part.id, part.function.name, text)


def _in_order(results: list[tuple[int, Message]]) -> list[Message]:
    return [message for _, message in sorted(results, key=lambda result: result[0])]
