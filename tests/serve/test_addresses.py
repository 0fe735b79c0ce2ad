"""Addresses that clients make up, and what they ask a server about itself."""

from collections.abc import Iterator

import pytest

from support.toy_server import NAME, ToyServer

ORIGIN = "http://testserver"


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with ToyServer() as server:
        yield server


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/chat/completions",
            f"/v1/chat/completions is what there is: set the client's base URL to {ORIGIN}/v1",
        ),
        ("/v1/v1/chat/completions", f"set the client's base URL to {ORIGIN}/v1"),
        ("/v1/chat/completions/chat/completions", f"set the client's base URL to {ORIGIN}/v1"),
        ("/openai/deployments/x/completions", "/v1/completions is what there is"),
        ("/models", f"/v1/models is what there is: set the client's base URL to {ORIGIN}/v1"),
        ("/v1/infill", f"/infill is what there is: set the client's base URL to {ORIGIN}"),
        ("/v1/audio/speech", "of OpenAI's API this server has /v1/chat/completions, "),
        ("/v1", "of OpenAI's API this server has "),
        ("/nowhere", "/openapi.json lists what there is"),
    ],
)
def test_an_address_with_nothing_says_where_to_look(toy: ToyServer, path: str, words: str) -> None:
    response = toy.post(path, json={})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "not_found"
    assert words in error["message"]


def test_a_slash_at_the_end_changes_nothing(toy: ToyServer) -> None:
    assert toy.get("/v1/models/").json() == toy.get("/v1/models").json()
    assert toy.get(f"/v1/models/{NAME}/").json() == toy.get(f"/v1/models/{NAME}").json()
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": 0}
    answers = [
        toy.post(f"/v1/chat/completions{end}", json=body, follow_redirects=False) for end in ("", "/", "//")
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert toy.get("/health/").status_code == 200


def test_another_method_is_named(toy: ToyServer) -> None:
    response = toy.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.json()["error"]["message"] == "GET /v1/chat/completions is not offered: use POST"


def test_what_clients_ask_about_the_model(toy: ToyServer) -> None:
    entry = toy.get("/v1/models").json()["data"][0]
    assert entry["max_model_len"] == entry["context_length"] == entry["meta"]["n_ctx_train"] == 4096
    props = toy.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert props["chat_template"].startswith("{% for message in messages %}")
    assert props["total_slots"] == len(toy.get("/slots").json())
    told = toy.get("/tokenizer_info").json()
    assert told["eos_token"] == "<|endoftext|>"
    end = toy.post("/tokenize", json={"prompt": told["eos_token"], "add_special_tokens": False})
    assert end.json()["count"] == 1


def test_other_names_of_the_model() -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    with ToyServer(aliases=("gpt-4o",)) as server:
        assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == [NAME, "gpt-4o"]
        assert server.get("/v1/models/gpt-4o").json()["id"] == "gpt-4o"
        for path in ("/v1/chat/completions", "/v1/messages"):
            answer = server.post(path, json=body | {"model": "gpt-4o"})
            assert answer.status_code == 200
            assert answer.json()["model"] == NAME
        refused = server.post("/v1/chat/completions", json=body | {"model": "gpt-5"})
        assert refused.status_code == 404
        assert "--alias" in refused.json()["error"]["message"]
    with ToyServer(aliases=("*",)) as server:
        assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == [NAME]
        answer = server.post("/v1/messages", json=body | {"model": "claude-x"})
        assert (answer.status_code, answer.json()["model"]) == (200, NAME)
        assert server.post("/api/show", json={"model": "llama3:latest"}).status_code == 200
