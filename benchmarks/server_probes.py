"""Single questions to a server that has nothing else to do: how soon it is free, how fast it is."""

import json
import re
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bmqwen.engine import Engine
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.template import Message
from served_model import ServedModel

WAIT_S = 120.0
STORY = "Write a long story about a robot who learns to paint, in many chapters."
CONTENT = re.compile(rb'"content":"[^"]')
FOLLOWING = "Say that in other words."


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed answer: seconds to its first text, its tokens a second after that, its tokens and its text."""

    first_s: float
    tokens_per_s: float
    tokens: int
    text: str


def seconds_to_free(server: ServedModel, text: str, *, pieces: int, stay_s: float) -> float:
    """Seconds from the moment a client leaves until the engine is free.

    It leaves `stay_s` after so many events: the first one comes when the prompt begins to be read.
    """
    with server.client.stream("POST", "/v1/chat/completions", json=_body(text, 4096)) as response:
        stream = _events(response.iter_lines())
        for _ in range(pieces):
            next(stream)
        time.sleep(stay_s)
        if not server.metric("bmqwen_running"):
            raise RuntimeError("the answer was over before its client left: ask for a longer one")
    begin = time.perf_counter()
    while server.metric("bmqwen_running"):
        if time.perf_counter() - begin > WAIT_S:
            raise RuntimeError("the engine is not free")
    return time.perf_counter() - begin


def turns(server: ServedModel, text: str, max_tokens: int = 16) -> tuple[float, float]:
    """Seconds to the first text of a conversation's first and second answer, and tokens of its first prompt."""
    first = timed(server, [{"role": "user", "content": text}], max_tokens)
    chat = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": FOLLOWING},
    ]
    return first.first_s, timed(server, chat, max_tokens).first_s


def overhead(server: ServedModel, engine: Engine, rounds: int, max_tokens: int) -> tuple[float, float]:
    """Tokens a second of the bare engine and of the server: medians of rounds, which begin with either in turn."""
    bare: list[float] = []
    served: list[float] = []
    bare_speed(engine, max_tokens)
    for number in range(rounds):
        if number % 2:
            bare.append(bare_speed(engine, max_tokens))
        served.append(served_speed(server, max_tokens))
        if not number % 2:
            bare.append(bare_speed(engine, max_tokens))
    return statistics.median(bare), statistics.median(served)


def bare_speed(engine: Engine, max_tokens: int) -> float:
    """Tokens a second of an answer of exactly that length, from an empty cache."""
    engine.session.reset()
    prompt = engine.template.encode([Message("user", STORY)], engine.tokenizer)
    first = last = 0.0
    pieces = engine.session.generate(prompt, SamplingParams(max_tokens=max_tokens))
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return _speed(end.value.usage.completion_tokens, max_tokens, first, last)
        last = time.perf_counter()
        first = first or last


def served_speed(server: ServedModel, max_tokens: int) -> float:
    """The same of a stream, read by a client that does next to nothing: it has the same cores as the server."""
    body = json.dumps({**_body(STORY, max_tokens), "stream_options": {"include_usage": True}}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    received: list[tuple[float, bytes]] = []
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(head.encode() + body)
        while data := connection.recv(1 << 16):
            received.append((time.perf_counter(), data))
    texts = [moment for moment, data in received if CONTENT.search(data)]
    counts = re.findall(rb'"completion_tokens":(\d+)', b"".join(data for _, data in received))
    if not texts or not counts:
        raise RuntimeError(f"the server gave no answer: {received[-1:]}")
    return _speed(int(counts[-1]), max_tokens, texts[0], texts[-1])


def timed(server: ServedModel, messages: list[dict[str, str]], max_tokens: int) -> Timing:
    """Ask, and read the stream as it comes."""
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    first = last = 0.0
    texts, tokens = [], 0
    begin = time.perf_counter()
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        for event in _events(response.iter_lines()):
            text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if text:
                last = time.perf_counter()
                first = first or last
                texts.append(text)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not texts:
        raise RuntimeError("the server gave no text")
    # A server may gather several tokens before the first text.
    begun = len(server.client.post("/tokenize", json={"prompt": "".join(texts[:1])}).json()["tokens"])
    speed = (tokens - begun) / (last - first) if last > first else 0.0
    return Timing(first - begin, speed, tokens, "".join(texts))


def _speed(tokens: int, wanted: int, first: float, last: float) -> float:
    if tokens < wanted:
        raise RuntimeError(f"the answer ended after {tokens} tokens: its speed is another one's")
    return (tokens - 1) / (last - first) if last > first else 0.0


def _events(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _body(text: str, max_tokens: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
