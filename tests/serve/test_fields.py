"""Fields of requests: what cannot change an answer is accepted and reported, what would is refused with the way out."""

from collections.abc import Iterator
from typing import Any

import pytest

from bmqwen.generate.params import SamplingParams
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.fields import REFUSED, UNUSED
from bmqwen.serve.http.protocol import ChatRequest
from support.toy_server import ToyServer

SAY = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8}


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with ToyServer() as server:
        yield server


EXAMPLES = {
    "add_generation_prompt": True,
    "best_of": 1,
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": False,
    "detokenize": True,
    "dry_allowed_length": 2,
    "dry_base": 1.75,
    "dry_multiplier": 0.0,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n", ":"],
    "dynatemp_exponent": 1.0,
    "dynatemp_range": 0,
    "id_slot": 3,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "keep_alive": "5m",
    "metadata": {"a": "b"},
    "min_tokens": 0,
    "mirostat": 0,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5,
    "n_keep": 3,
    "prediction": {"type": "content", "content": "x"},
    "priority": 1,
    "skip_special_tokens": True,
    "t_max_prompt_ms": 500,
    "tfs_z": 1,
    "typical_p": 1.0,
    "use_beam_search": False,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
}
WORDS = (
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "request_id",
    "service_tier",
    "verbosity",
)


def example(name: str) -> Any:
    """A value that clients send."""
    return EXAMPLES.get(name, "high" if name in WORDS else True)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("name", UNUSED)
def test_a_field_without_effect_changes_nothing_and_is_reported(toy: ToyServer, path: str, name: str) -> None:
    body = {"temperature": 0, **(SAY if path.startswith("chat") else {"prompt": "a", "max_tokens": 8})}
    plain = toy.post(f"/v1/{path}", json=body)
    assert "x-bmqwen-ignored" not in plain.headers
    value = example(name)
    response = toy.post(f"/v1/{path}", json=body | {name: value})
    assert response.status_code == 200, response.text
    assert response.json()["choices"] == plain.json()["choices"]
    expected = None if value in UNUSED[name].neutral else name
    assert response.headers.get("x-bmqwen-ignored") == expected
    wrong = toy.post(f"/v1/{path}", json=body | {name: [{}]})
    assert wrong.status_code == 400
    assert name in wrong.json()["error"]["message"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_field_that_would_change_the_answer_is_refused_with_the_way_out(toy: ToyServer, name: str) -> None:
    for value in (7, {"type": "object"}, "x", ["x"], True):
        response = toy.post("/v1/chat/completions", json=SAY | {name: value})
        assert response.status_code == 400, value
        error = response.json()["error"]
        assert error["param"].startswith(name)
        assert error["code"] == "unsupported_field"
        assert REFUSED[name] in error["message"]


def test_null_is_the_same_as_absent(toy: ToyServer) -> None:
    nulls = dict.fromkeys([*UNUSED, "temperature", "stop", "n", "max_completion_tokens", "tools"])
    response = toy.post("/v1/chat/completions", json=SAY | nulls)
    assert response.status_code == 200, response.text
    assert "x-bmqwen-ignored" not in response.headers
    response = toy.post("/v1/chat/completions", json=SAY | {"some_new_field": None})
    assert response.headers["x-bmqwen-ignored"] == "some_new_field"
    response = toy.post("/v1/chat/completions", json=SAY | {"stream_options": {"include_usage": True}})
    assert response.headers["x-bmqwen-ignored"] == "stream_options"
    response = toy.post("/v1/chat/completions", json=SAY | {"": None, " \x7f": None, "store": True})
    assert response.headers["x-bmqwen-ignored"] == "store, '', ' \\x7f'"
    response = toy.post("/v1/chat/completions", json=SAY | {f"f{number}": None for number in range(500)})
    assert response.headers["x-bmqwen-ignored"].endswith("f28, f29, 470 more")


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        ({"n_predict": 3, "max_tokens": None}, {"max_tokens": 3}),
        ({"max_tokens": 3, "max_completion_tokens": 3, "n_predict": 3}, {"max_tokens": 3}),
        ({"max_tokens": 3, "top_k": -1, "temperature": 1}, {"max_tokens": 3, "top_k": 0, "temperature": 1}),
        ({"max_tokens": -1, "n_predict": 3}, {"max_tokens": 3}),
        ({"repeat_penalty": 9, "max_tokens": 5}, {"repetition_penalty": 9, "max_tokens": 5}),
        ({"model": ""}, {}),
        ({"model": None, "max_tokens": None, "logit_bias": {}}, {"max_tokens": 4096}),
    ],
)
def test_other_names_and_other_words_for_nothing(
    toy: ToyServer, given: dict[str, Any], same_as: dict[str, Any]
) -> None:
    ask = {"temperature": 0, "seed": 1, "stop": ["zz"]}
    one = toy.post("/v1/chat/completions", json=SAY | ask | given)
    other = toy.post("/v1/chat/completions", json=SAY | ask | same_as)
    assert one.status_code == other.status_code == 200, one.text
    assert one.json()["choices"] == other.json()["choices"]


def test_two_names_with_two_values_are_refused(toy: ToyServer) -> None:
    response = toy.post("/v1/chat/completions", json=SAY | {"max_tokens": 3, "n_predict": 4})
    assert response.json()["error"]["message"] == (
        "max_tokens and n_predict mean the same thing, but differ: leave one out"
    )


@pytest.mark.parametrize(
    ("message", "ignored"),
    [
        ({"role": "user", "content": "Say hi.", "type": "text"}, "messages[].type"),
        ({"role": "user", "content": "Say hi.", "name": "bob", "id": 7}, "messages[].name, messages[].id"),
        ({"role": "assistant", "content": None}, None),
        ({"role": "assistant"}, None),
        ({"role": "assistant", "content": "", "refusal": None}, "messages[].refusal"),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
            },
            "messages[].content[].cache_control",
        ),
        ({"role": "user", "content": "a", "\r\nx: ü": 1}, "'messages[].\\r\\nx: \\xfc'"),
    ],
)
def test_what_clients_add_to_messages(toy: ToyServer, message: dict[str, Any], ignored: str | None) -> None:
    messages = [message, {"role": "user", "content": "Again."}]
    response = toy.post("/v1/chat/completions", json=SAY | {"messages": messages})
    assert response.status_code == 200, response.text
    assert response.headers.get("x-bmqwen-ignored") == ignored


def test_an_assistant_without_content_said_nothing(toy: ToyServer) -> None:
    prompts = [
        toy.post(
            "/apply-template",
            json={"messages": [{"role": "assistant", **said}, {"role": "user", "content": "a"}]},
        ).json()
        for said in ({"content": ""}, {"content": None}, {})
    ]
    assert prompts[0] == prompts[1] == prompts[2]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "this model takes no pictures"),
        ({"type": "input_audio", "input_audio": {}}, "this model neither hears nor speaks: send text"),
        ({"type": "smell"}, "this model reads only text parts"),
        ({"type": []}, "this model reads only text parts"),
    ],
)
def test_what_is_no_text_is_refused_by_name(toy: ToyServer, part: dict[str, Any], words: str) -> None:
    response = toy.post(
        "/v1/chat/completions", json=SAY | {"messages": [{"role": "user", "content": [part]}]}
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[0].type"
    assert error["message"].endswith(words)


def test_a_strict_server_refuses_what_has_no_effect() -> None:
    with ToyServer(strict_fields=True) as server:
        assert server.post("/v1/chat/completions", json=SAY).status_code == 200
        for field, value in (("store", True), ("some_new_field", None), ("prediction", {})):
            response = server.post("/v1/chat/completions", json=SAY | {field: value})
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "unsupported_field"
            assert response.json()["error"]["param"] == field
        assert server.post("/v1/chat/completions", json=SAY | {"store": False}).status_code == 200
        named = SAY | {"messages": [{"role": "user", "content": "a", "name": "bob"}]}
        assert server.post("/v1/chat/completions", json=named).json()["error"]["param"] == "messages[].name"


def test_only_an_answer_without_a_length_has_a_time() -> None:
    defaults = SamplingParams(temperature=1.0, max_tokens=4096, seconds=120)
    for fields, expected in (
        ({}, 120),
        ({"temperature": 0}, 120),
        ({"max_tokens": -1}, 120),
        ({"max_tokens": 5000}, None),
        ({"max_completion_tokens": 7}, None),
    ):
        body = ChatRequest.model_validate({"messages": SAY["messages"], **fields})
        assert sampling_of(body, defaults, 300).seconds == expected


def test_every_answer_has_an_id(toy: ToyServer) -> None:
    own = toy.post("/v1/chat/completions", json=SAY, headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    for bad in ("", "a b", "a" * 200):
        made = toy.get("/nowhere", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made.startswith("req-")
