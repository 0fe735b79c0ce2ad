"""/infill and `suffix`, as editors ask for them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.toy_runtime import ToyRuntime
from support.toy_server import ToyServer
from support.toy_tokenizer import toy_coder_tokenizer

TOKENIZER = toy_coder_tokenizer()
BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


def coder() -> ToyServer:
    return ToyServer(ToyRuntime(TOKENIZER.vocab_size), tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with coder() as server:
        yield server


def infill(toy: ToyServer, **body: Any) -> Any:
    response = toy.post("/infill", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_one_prompt_however_it_is_asked_for(toy: ToyServer) -> None:
    ask = {"temperature": 0, "n_predict": 20}
    whole = infill(toy, input_prefix=BEFORE, input_suffix=AFTER, **ask)["content"]
    parts = infill(
        toy,
        input_prefix="def add(a, b):\n",
        prompt="    return ",
        input_suffix=AFTER,
        samplers=["infill"],
        **ask,
    )
    other = toy.complete(BEFORE, suffix=AFTER, temperature=0, max_tokens=20).json()["choices"][0]["text"]
    written = f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>"
    finished = toy.complete(written, temperature=0, max_tokens=20).json()["choices"][0]["text"]
    assert whole == parts["content"] == other
    assert finished.startswith(whole)  # which does not end at tokens of the family


def test_a_middle_ends_at_the_familys_tokens() -> None:
    end = TOKENIZER.control_tokens["<|file_sep|>"]
    runtime = ToyRuntime(TOKENIZER.vocab_size, next_token=lambda _: end)
    with ToyServer(runtime, tokenizer=TOKENIZER) as server:
        answer = infill(server, input_prefix=BEFORE, input_suffix=AFTER, temperature=0)
        assert (answer["content"], answer["stop_type"], answer["tokens_predicted"]) == ("", "eos", 1)
        assert (
            server.complete(BEFORE, suffix=AFTER, temperature=0).json()["choices"][0]["finish_reason"]
            == "stop"
        )


def test_a_keystroke_costs_what_is_new_and_what_stands_after(toy: ToyServer) -> None:
    long = "# " + "word " * 50 + "\n"
    infill(toy, input_prefix=long + "    ret", input_suffix=AFTER, n_predict=2, temperature=0)
    for typed in ("u", "urn", "urn a"):
        answer = infill(
            toy, input_prefix=f"{long}    ret{typed}", input_suffix=AFTER, n_predict=2, temperature=0
        )
        assert answer["timings"]["prompt_n"] <= len(TOKENIZER.encode(AFTER)) + 5


def test_a_stream_has_the_same_text(toy: ToyServer) -> None:
    ask = {"input_prefix": BEFORE, "input_suffix": AFTER, "temperature": 0, "n_predict": 20}
    whole = infill(toy, **ask)
    lines = toy.post("/infill", json=ask | {"stream": True}).text.strip().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert "".join(event["content"] for event in events) == whole["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_predicted"] == whole["tokens_predicted"]


def test_too_much_text_is_cut_and_said_so(toy: ToyServer) -> None:
    answer = infill(toy, input_prefix="line\n" * 2000, input_suffix=AFTER, n_predict=4, temperature=0)
    assert answer["truncated"] is True
    assert answer["tokens_evaluated"] <= 4092
    refused = toy.complete("line\n" * 2000, suffix=AFTER)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_what_is_refused(toy: ToyServer) -> None:
    with ToyServer() as plain:
        for response, param in (
            (plain.post("/infill", json={"input_prefix": BEFORE, "input_suffix": AFTER}), "input_suffix"),
            (plain.complete("a", suffix="b"), "suffix"),
        ):
            error = response.json()["error"]
            assert response.status_code == 400
            assert (error["code"], error["param"]) == ("unsupported_field", param)
            assert "serve a coder model such as Qwen2.5-Coder" in error["message"]
        assert plain.complete("a", suffix="").status_code == 200
    for body, param in (
        ({"samplers": ["top_k"]}, "samplers"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora"),
        ({"input_suffix": "\ud800"}, "input_suffix"),
        ({"input_extra": [{"text": "\ud800"}]}, "input_extra[0]"),
        ({"n_indent": -1}, "n_indent"),
        ({"input_extra": "x"}, "input_extra"),
    ):
        content = json.dumps({"input_prefix": "a", "input_suffix": "b", **body})
        response = toy.post("/infill", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400, body
        assert response.json()["error"]["param"] == param
    assert toy.complete([1, 2], suffix="b").json()["error"]["param"] == "prompt"


def test_an_empty_prompt_is_the_beginning_of_a_text(toy: ToyServer) -> None:
    empty = toy.complete("", temperature=0).json()
    named = toy.complete("<|endoftext|>", temperature=0).json()
    assert empty["choices"] == named["choices"]
