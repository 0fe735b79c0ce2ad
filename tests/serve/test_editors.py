"""Requests of editors' completions, in the form in which they are sent.

llama.vim's were recorded from Vim 9.0 with the plug-in of commit a1c8e6e (January 2026). The others are composed as
the sources do: llama.vscode 3938fb3 (August 2026), Continue 1.3.40 (d0a3c0b), twinny 3.23.31 (193d14c),
minuet-ai.nvim 479487c (August 2026).
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.toy_runtime import ToyRuntime
from support.toy_server import NAME, ToyServer
from support.toy_tokenizer import toy_coder_tokenizer

TOKENIZER = toy_coder_tokenizer()
LLAMA_VIM = (
    r'{"input_suffix":"\n\nprint(add(1, 2))\n","response_fields":["content","timings/prompt_n","timings/prompt_ms",'
    r'"timings/prompt_per_token_ms","timings/prompt_per_second","timings/predicted_n","timings/predicted_ms",'
    r'"timings/predicted_per_token_ms","timings/predicted_per_second","truncated","tokens_cached"],'
    r'"t_max_prompt_ms":500,"input_prefix":"def add(a, b):\n","t_max_predict_ms":250,"n_indent":4,"stop":[],'
    r'"stream":false,"top_k":40,"prompt":"    return ","top_p":0.9,"input_extra":[],"id_slot":0,'
    r'"samplers":["top_k","top_p","infill"],"cache_prompt":true,"n_predict":128,"model":""}'
)
LLAMA_VIM_WARMS = (
    r'{"input_suffix":"","input_prefix":"","temperature":0.0,"input_extra":[{"filename":"vim/calc.py",'
    r'"time":[1795899745,601427],"text":"def add(a, b):\n    return \n\nprint(add(1, 2))\n"}],"id_slot":0,'
    r'"samplers":[],"n_predict":0,"model":"","response_fields":[""],"t_max_predict_ms":1,"stream":false,'
    r'"cache_prompt":true,"prompt":"","t_max_prompt_ms":1}'
)
LLAMA_VSCODE: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "def add(a, b):\n",
    "input_suffix": "\n\nprint(add(1, 2))\n",
    "input_extra": [{"text": "import os", "time": 1787100000000, "filename": "os.py"}],
    "prompt": "    return ",
    "n_predict": 128,
    "n_cmpl": 3,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
FINISHED = "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\nprint(add(1, 2))\n<|fim_middle|>"
CONTINUE: dict[str, Any] = {
    "model": NAME,
    "max_tokens": 256,
    "temperature": 0.01,
    "stream": True,
    "stop": [
        "<|endoftext|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<|im_start|>",
        "<|im_end|>",
        "/src/",
        "#- coding: utf-8",
        "```",
    ],
    "prompt": FINISHED,
}
CONTINUE_OLLAMA: dict[str, Any] = {
    "model": NAME,
    "prompt": FINISHED,
    "raw": True,
    "options": {"temperature": 0.01, "num_predict": 256, "stop": CONTINUE["stop"], "num_ctx": 8192},
    "keep_alive": 1800,
    "stream": True,
}
TWINNY_LLAMACPP: dict[str, Any] = {
    "prompt": FINISHED,
    "stream": True,
    "temperature": 0.2,
    "max_tokens": 512,
}
TWINNY_LMSTUDIO: dict[str, Any] = {"model": NAME, **TWINNY_LLAMACPP}
MINUET: dict[str, Any] = {
    "model": NAME,
    "stream": True,
    "max_tokens": 56,
    "top_p": 0.9,
    "prompt": "# language: python\n# indentation: use 4 spaces for a tab\ndef add(a, b):\n    return ",
    "suffix": "\n\nprint(add(1, 2))\n",
}
MINUET_LLAMACPP: dict[str, Any] = {
    "model": "PLACEHOLDER",
    "stream": True,
    "max_tokens": 56,
    "top_p": 0.9,
    "prompt": FINISHED,
}


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    runtime = ToyRuntime(TOKENIZER.vocab_size)
    with ToyServer(runtime, tokenizer=TOKENIZER, aliases=("PLACEHOLDER",)) as server:
        yield server


def test_llama_vim(toy: ToyServer) -> None:
    # It has no key, and says so.
    headers = {"content-type": "application/json", "authorization": "Bearer "}
    answer = toy.post("/infill", content=LLAMA_VIM, headers=headers)
    assert answer.status_code == 200, answer.text
    # The plug-in looks for it like this, before it reads the JSON.
    assert '"content":"' in answer.text
    assert set(answer.json()) == set(json.loads(LLAMA_VIM)["response_fields"])
    assert answer.json()["timings/predicted_n"] >= 1
    assert answer.json()["truncated"] is False
    warmed = toy.post("/infill", content=LLAMA_VIM_WARMS, headers=headers)
    assert (warmed.status_code, warmed.json()) == (200, {})


def test_llama_vscode(toy: ToyServer) -> None:
    answers = toy.post("/infill", json=LLAMA_VSCODE).json()
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert len({answer["content"] for answer in answers}) == 1  # the likeliest
    assert answers[0]["stop"] is True
    assert "predicted_per_second" in answers[0]["timings"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", CONTINUE),
        ("/v1/completions", TWINNY_LMSTUDIO),
        ("/v1/completions", MINUET),
        ("/v1/completions", MINUET_LLAMACPP),
        ("/completion", TWINNY_LLAMACPP),
        ("/api/generate", CONTINUE_OLLAMA),
    ],
)
def test_streams_that_others_read(toy: ToyServer, path: str, body: dict[str, Any]) -> None:
    answer = toy.post(path, json=body | {"seed": 1} if path != "/api/generate" else body)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    if path == "/v1/completions":
        texts = [event["choices"][0]["text"] for event in events]
    else:
        texts = [event["content" if path == "/completion" else "response"] for event in events]
    assert "".join(texts)


def test_completion_is_that_of_llama_cpp(toy: ToyServer) -> None:
    body = {"prompt": FINISHED, "temperature": 0, "n_predict": 8}
    whole = toy.post("/completion", json=body).json()
    other = toy.complete(FINISHED, temperature=0).json()["choices"][0]["text"]
    assert (whole["content"], whole["tokens_predicted"], whole["stop_type"]) == (other, 8, "limit")
    # Without a limit it goes on to the server's.
    for limit in ({}, {"n_predict": -1}):
        longer = toy.post("/completion", json={"prompt": FINISHED, "temperature": 0} | limit).json()
        assert longer["content"].startswith(other)
        assert longer["tokens_predicted"] > 16
    # Samplers at the values that leave them out change nothing.
    off = {"mirostat": 0, "mirostat_tau": 5.0, "typical_p": 1.0, "dry_multiplier": 0.0, "xtc_probability": 0}
    assert toy.post("/completion", json=body | off).json()["content"] == other
    refused = toy.post("/completion", json=body | {"mirostat": 2})
    assert refused.status_code == 400
    assert "this server has temperature" in refused.json()["error"]["message"]
