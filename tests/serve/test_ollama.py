"""Ollama's API: its shapes of answers, lines and errors, over the same answers as chat completions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bmqwen.serve.http.errors import json_bytes
from support.hermes import PARIS, WEATHER, server_saying
from support.toy_server import ToyServer
from support.toy_tokenizer import HERMES, toy_template

ASK: dict[str, Any] = {"model": "toy:latest", "options": {"temperature": 0, "num_predict": 200}}
QUESTION: list[Any] = [{"role": "user", "content": "?"}]


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with ToyServer(template=toy_template(HERMES)) as server:
        yield server


def lines(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_call_its_result_and_the_answer() -> None:
    with server_saying(f"Let me see.\n{PARIS}", "It rains.") as server:
        ask = ASK | {"messages": QUESTION, "tools": [WEATHER]}
        streamed = lines(server.post("/api/chat", json=ask))
        assert [line["done"] for line in streamed] == [False] * (len(streamed) - 1) + [True]
        assert "".join(line["message"]["content"] for line in streamed) == "Let me see."
        (calls,) = [line["message"]["tool_calls"] for line in streamed if "tool_calls" in line["message"]]
        assert calls[0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
        answer = server.post("/api/chat", json=ask | {"stream": False}).json()
        assert answer["message"]["content"] == "Let me see."
        assert answer["message"]["tool_calls"][0]["function"] == calls[0]["function"]
        assert answer["done_reason"] == "stop"
        assert answer["eval_count"] == streamed[-1]["eval_count"] > 5
        # Clients send calls without ids, and name the tool or nothing.
        said = {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"function": calls[0]["function"]}],
        }
        for result in ({"tool_name": "weather"}, {}):
            history = [*QUESTION, said, {"role": "tool", "content": "rain", **result}]
            last = server.post("/api/chat", json=ask | {"messages": history, "stream": False}).json()
            assert last["message"] == {"role": "assistant", "content": "It rains."}


def test_texts(toy: ToyServer) -> None:
    chat = toy.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "system", "content": "s"}, *QUESTION], "max_tokens": 9, "temperature": 0},
    ).json()
    ask = {"prompt": "?", "system": "s", "options": {"num_predict": 9, "temperature": 0}, "keep_alive": "5m"}
    answer = toy.post("/api/generate", json=ask | {"stream": False})
    assert answer.json()["response"] == chat["choices"][0]["message"]["content"]
    assert answer.json()["done_reason"] == "length"
    assert answer.headers["x-bmqwen-ignored"] == "keep_alive"
    streamed = lines(toy.post("/api/generate", json=ask))
    assert "".join(line["response"] for line in streamed) == answer.json()["response"]
    raw = toy.post(
        "/api/generate", json={"prompt": "?", "raw": True, "stream": False, "options": ask["options"]}
    )
    text = toy.post("/v1/completions", json={"prompt": "?", "max_tokens": 9, "temperature": 0}).json()
    assert raw.json()["response"] == text["choices"][0]["text"]


def test_forms(toy: ToyServer) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    ask = {
        "messages": QUESTION,
        "stream": False,
        "options": {"temperature": 1.5, "seed": 1, "num_predict": 300},
    }
    answer = toy.post("/api/chat", json=ask | {"format": schema}).json()
    assert json.loads(answer["message"]["content"])["a"] in (1, 2)
    assert toy.post("/api/chat", json=ask | {"format": "json"}).json()["message"]["content"].startswith("{")


def test_what_clients_ask_about_models(toy: ToyServer) -> None:
    (model,) = toy.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == "toy"
    assert toy.get("/api/ps").json()["models"][0]["context_length"] == 4096
    shown = toy.post("/api/show", json={"model": "toy"}).json()
    assert "tools" in shown["capabilities"]
    assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 4096
    assert toy.get("/api/version").json()["version"]
    assert toy.head("/").status_code == 200
    for body in ({"model": "toy"}, {"model": "toy", "messages": []}):
        loaded = toy.post("/api/chat", json=body).json()
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("chat", {"model": "llama3", "messages": QUESTION}, 404, "this server has 'toy'"),
        (
            "chat",
            {"messages": [{"role": "user", "content": "?", "images": ["aGk="]}]},
            400,
            "takes no pictures",
        ),
        (
            "chat",
            {"messages": [*QUESTION, {"role": "tool", "content": "x"}]},
            400,
            "no message before it made",
        ),
        ("chat", {"messages": QUESTION, "options": {"mirostat": 2}}, 400, "options.mirostat"),
        ("chat", {"messages": QUESTION, "options": {"temperature": "hot"}}, 400, "options.temperature"),
        ("chat", {"messages": QUESTION, "options": 5}, 400, "options is 5"),
        ("chat", {"messages": QUESTION, "options": {"top_p": 7}}, 400, "top_p is 7"),
        ("generate", {"prompt": "?", "template": "{{ .Prompt }}"}, 400, "template"),
        ("generate", {"prompt": "?", "context": [1, 2]}, 400, "context"),
        ("pull", {"model": "llama3"}, 404, "bmqwen pull"),
        ("embed", {"model": "toy", "input": "x"}, 404, "no embedding model"),
        ("nothing", {}, 404, "nothing at"),
    ],
)
def test_errors_have_ollamas_shape(
    toy: ToyServer, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    response = toy.post(f"/api/{path}", json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_a_line_of_a_stream_is_one_line_to_clients_in_python() -> None:
    body = {"response": "a\x85b\u2028c\u2029d\x0b\n…\ud800"}
    for text in (body["response"], body["response"][:-1]):
        (line,) = json_bytes({"response": text}).decode().splitlines()
        assert json.loads(line) == {"response": text}
