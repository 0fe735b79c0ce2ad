"""Servers whose answers, with calls in Hermes' form, are known."""

from typing import Any

from support.toy_runtime import ToyRuntime, script
from support.toy_server import ToyServer
from support.toy_tokenizer import HERMES, toy_template, toy_tokenizer

TOKENIZER = toy_tokenizer()
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rom"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>'


def ids(text: str) -> list[int]:
    """Tokens of an answer, its tags control tokens."""
    parts = TOKENIZER.split_control(text)
    return [
        token for part in parts for token in ([part] if isinstance(part, int) else TOKENIZER.encode(part))
    ]


def server_saying(*answers: str, template: str = HERMES) -> ToyServer:
    """A server that gives these answers to one question after another of a conversation."""
    ends = ids("<|im_end|>")
    runtime = ToyRuntime(
        TOKENIZER.vocab_size,
        next_token=script([ids(answer) + ends for answer in answers], ids("<|im_start|>assistant\n")),
    )
    return ToyServer(runtime, template=toy_template(template))
