"""Calls of tools in a conversation's history are shown as calls."""

import pytest

from bmqwen.cli.repl.calls import with_calls

JSON = '<tool_call>\n{"name": "add", "arguments": {"城市": "巴黎"}}\n</tool_call>'
XML = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Hello <b>", "Hello <b>"),
        (f"Let me see.\n{JSON}\n{XML}", 'Let me see.\n[calls add {"城市": "巴黎"}]\n[calls add {"a": 1}]'),
        ('<tool_call>{"name": "now"}</tool_call> Done.', "[calls now {}]\nDone."),
        ("<tool_call>\n[1", "[calls [1]"),
    ],
)
def test_calls_are_shown_as_calls(answer: str, shown: str) -> None:
    assert with_calls(answer) == shown
