"""Embeddings and reranking beside a chat model: one server, the official client, errors."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from bmqwen.engine import load
from bmqwen.generate.retrieval import EmbeddingPrompts
from bmqwen.generate.tokenizer import Tokenizer
from support.live_server import LiveServer, live_server
from support.retrieval_models import write_embedder, write_reranker
from support.talker import SAYS
from support.toy_server import ToyServer

pytestmark = pytest.mark.filterwarnings("default")
TEXTS = ["The capital of China is Beijing.", "hello you"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("retrieval")
    return write_embedder(folder / "embedder"), write_reranker(folder / "reranker")


@pytest.fixture(scope="module")
def server(talker: Path, folders: tuple[Path, Path], serve_folder: Path) -> Iterator[LiveServer]:
    options = ("--embedding", str(folders[0]), "--rerank", str(folders[1]), "--alias", "*")
    with live_server(talker, *options, cache=serve_folder / "cache") as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_the_official_client_gets_embeddings(
    client: openai.OpenAI, folders: tuple[Path, Path], serve_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it asks by default (base64), and as numbers: those that the model gives without a server."""
    monkeypatch.setenv("BMQWEN_CACHE", str(serve_folder / "cache"))
    with load(folders[0], task="embedding", threads=1) as loaded:
        wanted = [loaded.embed(text) for text in TEXTS]
        short = loaded.embed(TEXTS[0], query=True, dimensions=8)
        ids = loaded.embedding_prompts.prompt(TEXTS[1])
    default = client.embeddings.create(model="embedder", input=TEXTS)
    numbers = client.embeddings.create(model="embedder", input=TEXTS, encoding_format="float")
    for answer in (default, numbers):
        assert [item.index for item in answer.data] == [0, 1]
        got = [item.embedding for item in answer.data]
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens > 10
    one = client.embeddings.create(
        model="embedder", input=TEXTS[0], dimensions=8, extra_body={"input_type": "query"}
    )
    np.testing.assert_allclose(one.data[0].embedding, short, atol=1e-6)
    by_ids = client.embeddings.create(model="embedder", input=ids)
    np.testing.assert_allclose(by_ids.data[0].embedding, wanted[1], atol=1e-6)


def test_more_texts_than_may_wait(server: LiveServer) -> None:
    texts = [f"text {number}" for number in range(150)]
    body = server.post("/v1/embeddings", {"input": texts, "encoding_format": "base64"}).json()
    assert [item["index"] for item in body["data"]] == list(range(150))
    vectors = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in body["data"]]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_ollamas_addresses(server: LiveServer) -> None:
    wanted = server.post("/v1/embeddings", {"input": TEXTS}).json()["data"]
    got = server.post("/api/embed", {"model": "embedder:latest", "input": TEXTS}).json()
    assert got["embeddings"] == [item["embedding"] for item in wanted]
    older = server.post("/api/embeddings", {"model": "embedder", "prompt": TEXTS[0]}).json()
    assert older == {"embedding": wanted[0]["embedding"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_ranked(
    server: LiveServer,
    folders: tuple[Path, Path],
    path: str,
    serve_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(serve_folder / "cache"))
    documents = [*TEXTS, "a third one"]
    with load(folders[1], task="rerank", threads=1) as loaded:
        wanted = [loaded.relevance("capital", document) for document in documents]
    body: dict[str, Any] = {"model": "reranker", "query": "capital", "documents": documents}
    answer = server.post(path, body).json()
    order = [result["index"] for result in answer["results"]]
    assert order == sorted(range(3), key=lambda index: -wanted[index])
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(wanted[result["index"]], abs=1e-6)
        assert result["document"] == {"text": documents[result["index"]]}
    shorter = body | {
        "top_n": 1,
        "return_documents": False,
        "documents": [{"text": one} for one in documents],
    }
    assert server.post(path, shorter).json()["results"] == [
        {"index": order[0], "relevance_score": answer["results"][0]["relevance_score"]}
    ]


LONG = "The capital of China is Beijing. " * 40


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"truncate": True}, 127),
        ({"truncate": "END"}, 127),
        ({"truncate_prompt_tokens": -1}, 127),
        ({"truncate_prompt_tokens": 8192}, 127),
        ({"truncate_prompt_tokens": 20, "truncate": False}, 20),
    ],
)
def test_a_long_text_loses_its_end_where_that_is_asked_for(
    server: LiveServer, folders: tuple[Path, Path], asked: dict[str, Any], most: int
) -> None:
    """As in sentence-transformers: the token whose state is the embedding stays the last one."""
    prompts = EmbeddingPrompts(Tokenizer.from_folder(folders[0]), folders[0])
    ids = prompts.prompt(LONG)
    answer = server.post("/v1/embeddings", {"input": [LONG, "short"], **asked}).json()
    whole = server.post(
        "/v1/embeddings", {"input": [[*ids[: most - 1], ids[-1]], prompts.prompt("short")]}
    ).json()
    assert len(ids) > 127
    assert answer == whole


def test_what_clients_send_beside(server: LiveServer) -> None:
    """RAGFlow's field for LiteLLM; the user of Dify, its return_documents; Open WebUI's top_n."""
    plain = server.post("/v1/embeddings", {"input": TEXTS}).json()
    ragflow = {"model": "embedder", "input": TEXTS, "encoding_format": "float", "drop_params": True}
    answer = server.post("/v1/embeddings", ragflow)
    assert answer.json() == plain
    assert answer.headers["x-bmqwen-ignored"] == "drop_params"
    dify = {"model": "embedder", "input": TEXTS, "user": "0f4b6b4e-7b0e"}
    assert server.post("/v1/embeddings", dify).json() == plain
    asked = {"model": "reranker", "query": "capital", "documents": TEXTS}
    for more in ({}, {"top_n": 2, "return_documents": True}, {"top_n": 2, "drop_params": True}):
        found = server.post("/v1/rerank", asked | more).json()["results"]
        assert {result["index"] for result in found} == {0, 1}
        assert all(0 <= result["relevance_score"] <= 1 for result in found)


def test_ollama_shortens_unless_it_is_told_not_to(server: LiveServer) -> None:
    wanted = server.post("/v1/embeddings", {"input": LONG, "truncate": True}).json()["data"][0]["embedding"]
    assert server.post("/api/embed", {"model": "embedder", "input": LONG}).json()["embeddings"] == [wanted]
    assert server.post("/api/embeddings", {"model": "embedder", "prompt": LONG}).json() == {
        "embedding": wanted
    }
    refused = server.post("/api/embed", {"model": "embedder", "input": LONG, "truncate": False})
    assert refused.status_code == 400
    assert "only 127 fit into the context; split input, or set truncate to true" in refused.json()["error"]


def test_a_long_document_loses_its_end_but_not_the_question(server: LiveServer) -> None:
    body: dict[str, Any] = {"query": "capital", "documents": ["hello you"]}
    read = server.post("/v1/rerank", body).json()["usage"]["prompt_tokens"]
    short = server.post("/v1/rerank", body | {"documents": ["hello"]}).json()
    cut = server.post("/v2/rerank", body | {"max_tokens_per_doc": 1}).json()
    assert cut["results"][0]["relevance_score"] == short["results"][0]["relevance_score"]
    assert cut["usage"] == short["usage"] == {"prompt_tokens": read - 1, "total_tokens": read - 1}
    long = body | {"documents": [LONG]}
    assert server.post("/v1/rerank", long).json()["error"]["code"] == "context_length_exceeded"
    # At most so many tokens are still more than fit.
    refused = server.post("/v1/rerank", long | {"max_tokens_per_doc": 4096, "truncate": False})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    both = server.post("/v1/rerank", long | {"max_tokens_per_doc": 4096, "truncate": True})
    assert both.json()["usage"]["prompt_tokens"] == 511
    for asked, tokens in (({"truncate": True}, 511), ({"truncate_prompt_tokens": 400}, 400)):
        assert server.post("/v1/rerank", long | asked).json()["usage"]["prompt_tokens"] == tokens
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"query": LONG, "truncate": True}, "query and instruction alone have"),
        ({"truncate": "START"}, "truncate"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens is 0: input should be -1 or at least 1"),
        ({"query": "q" * 600_000, "documents": ["a"] * 2}, "of which 600,000 go with each text, are more"),
    ]
    for change, said in wrong:
        refused = server.post("/v1/rerank", body | change)
        assert refused.status_code == 400
        assert said in refused.json()["error"]["message"]


def test_each_model_is_asked_at_its_place(server: LiveServer, client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list().data]
    assert {"embedder", "reranker", "talker"} <= set(names)
    assert server.chat("say it", model="talker")["choices"][0]["message"]["content"] == SAYS
    wrong = server.post("/v1/chat/completions", {"model": "embedder", "messages": []})
    assert wrong.status_code == 400  # no messages
    wrong = server.post("/v1/completions", {"model": "embedder", "prompt": "a"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
    said = "'embedder' is the embedding model, which answers at /v1/embeddings: name 'talker' here"
    assert wrong.json()["error"]["message"] == said
    # Clients that were written for OpenAI's own models name those: any name is taken.
    assert server.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "a"}).status_code == 200
    assert server.client.get("/health").json()["engines"] == 3
    assert 'bmqwen_prompt_tokens_total{model="embedder"}' in server.client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": []}, "input"),
        ({"input": "a", "dimensions": 65}, "dimensions is 65, but this model has 64"),
        ({"input": ["a", "word " * 300]}, "only 127 fit into the context; split input[1]"),
        ({"input": [[5, 999]]}, "input[0] has the token 999, but the last one is 319"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": [1, 2], "input_type": "query"}, "an instruction goes before text"),
    ],
)
def test_what_cannot_be_embedded(server: LiveServer, body: dict[str, Any], said: str) -> None:
    response = server.post("/v1/embeddings", body)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_a_server_without_such_models_says_how_to_get_them() -> None:
    with ToyServer() as toy:
        for path, body, option in (
            ("/v1/embeddings", {"input": "a"}, "--embedding"),
            ("/v1/rerank", {"query": "a", "documents": ["b"]}, "--rerank"),
        ):
            response = toy.post(path, json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_offered")
            assert f"start it with {option} MODEL" in response.json()["error"]["message"]
