"""Anthropic's API: its shapes of answers, streams and errors, over the same answers as chat completions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.hermes import PARIS, WEATHER, server_saying
from support.toy_server import ToyServer
from support.toy_tokenizer import HERMES, toy_template

TOOL = {
    "name": "weather",
    "input_schema": WEATHER["function"]["parameters"],
    "cache_control": {"type": "ephemeral"},
}
ASK: dict[str, Any] = {
    "model": "toy",
    "max_tokens": 200,
    "temperature": 0,
    "messages": [{"role": "user", "content": "?"}],
}


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with ToyServer(template=toy_template(HERMES)) as server:
        yield server


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose names must be their types."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def collected(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream tells."""
    message = found[0]["message"]
    for event in found[1:]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            block, delta = message["content"][event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                block["json"] = block.get("json", "") + delta["partial_json"]
            else:
                block["text"] += delta["text"]
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    for block in message["content"]:
        if "json" in block:
            block["input"] = json.loads(block.pop("json"))
    return dict(message)


def test_a_call_its_result_and_the_answer() -> None:
    with server_saying(f"Let me see.\n{PARIS}", "It rains.") as server:
        ask = ASK | {"tools": [TOOL], "system": [{"type": "text", "text": "Be brief."}]}
        answer = server.post("/v1/messages", json=ask).json()
        assert answer["stop_reason"] == "tool_use"
        text, call = answer["content"]
        assert text == {"type": "text", "text": "Let me see."}
        assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Paris"})
        streamed = server.post("/v1/messages?beta=true", json=ask | {"stream": True})
        assert streamed.headers["content-type"].startswith("text/event-stream")
        found = events(streamed.text)
        assert [found[0]["type"], found[-1]["type"]] == ["message_start", "message_stop"]
        told = collected(found)
        for varying in (told, answer):
            varying["id"] = varying["content"][1]["id"] = ""
            usage = varying["usage"]
            usage["input_tokens"] += usage.pop("cache_read_input_tokens")
        assert told == answer
        result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "rain"}]}
        history = [
            *ask["messages"],
            {"role": "assistant", "content": [text, call | {"id": "1"}]},
            {"role": "user", "content": [result]},
        ]
        last = server.post("/v1/messages", json=ask | {"messages": history}).json()
        assert last["content"] == [{"type": "text", "text": "It rains."}]
        assert (last["stop_reason"], last["stop_sequence"]) == ("end_turn", None)
        assert last["usage"]["cache_read_input_tokens"] > 20


def test_how_answers_end() -> None:
    with server_saying("one two three") as server:
        cut = server.post("/v1/messages", json=ASK | {"max_tokens": 3}).json()
        assert cut["stop_reason"] == "max_tokens"
        stopped = server.post("/v1/messages", json=ASK | {"stop_sequences": [" two", "x"]}).json()
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " two")
        assert stopped["content"] == [{"type": "text", "text": "one"}]


def test_the_same_prompt_as_chat_completions(toy: ToyServer) -> None:
    chat = toy.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}],
            "tools": [WEATHER],
            "max_tokens": 9,
            "temperature": 0,
        },
    ).json()
    body = ASK | {"system": "Be brief.", "tools": [TOOL | {"description": "Of a city"}], "max_tokens": 9}
    answer = toy.post("/v1/messages", json=body).json()
    assert answer["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    counted = toy.post(
        "/v1/messages/count_tokens", json={name: body[name] for name in ("messages", "system", "tools")}
    )
    assert counted.json() == {"input_tokens": chat["usage"]["prompt_tokens"]}


def test_tools_that_must_be_called(toy: ToyServer) -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}):
        body = ASK | {"tools": [TOOL], "tool_choice": choice, "temperature": 1.5}
        answer = toy.post("/v1/messages", json=body).json()
        assert answer["content"][0]["input"]["city"] in ("Paris", "Rom")


def test_fields_of_clients(toy: ToyServer) -> None:
    fields = {
        "metadata": {"user_id": "u" * 400},
        "service_tier": "auto",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": []},
        "top_k": 3,
    }
    response = toy.post("/v1/messages", json=ASK | fields)
    assert response.status_code == 200, response.text
    assert "context_management" in response.headers["x-bmqwen-ignored"]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "message"),
    [
        ({"model": "claude-sonnet-4-5"}, 404, "not_found_error", "this server has 'toy'"),
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"temperature": 7}, 400, "invalid_request_error", "temperature"),
        ({"nonsense": 1}, 400, "invalid_request_error", "nonsense is not a field"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400, "invalid_request_error", "tools[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]},
            400,
            "invalid_request_error",
            "this model takes no pictures",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "y"}]}
                ]
            },
            400,
            "invalid_request_error",
            "the result of the call 'x'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "?"},
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "x", "name": "f", "input": "no"}],
                    },
                ]
            },
            400,
            "invalid_request_error",
            "messages[1].content[0].input",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropics_shape(
    toy: ToyServer, fields: dict[str, Any], status: int, kind: str, message: str, stream: bool
) -> None:
    response = toy.post("/v1/messages", json=ASK | {"stream": stream} | fields)
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert message in body["error"]["message"]


def test_a_client_is_told_to_go_on_without_a_thread(toy: ToyServer) -> None:
    response = toy.post("/v1/messages", json=ASK | {"thread": {"type": "create"}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["details"]["error_code"] == "thread_unsupported_request"
    assert "send the whole conversation" in error["message"]


def test_its_own_header_has_the_key() -> None:
    with ToyServer(keys=("a-key-of-ours",)) as server:
        wrong = server.post("/v1/messages", json=ASK, headers={"x-api-key": "another-key"})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
        right = server.post("/v1/messages", json=ASK, headers={"x-api-key": "a-key-of-ours"})
        assert right.status_code == 200
