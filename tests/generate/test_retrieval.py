"""Embeddings and relevance, against what transformers computes from the same checkpoints and the published prompts."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.engine import Engine, load
from bmqwen.errors import ConfigError, ContextLengthError, InputError
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support import checkpoints
from support.checkpoints import random_weights, tiny_config, write_checkpoint, write_gguf
from support.retrieval_models import QUERY, write_embedder, write_reranker

FLOAT = Precision("f32", 32, "f32")
TOLERANCE = 1e-3
TEXT = "The capital of China is Beijing."


@pytest.fixture(scope="module")
def folder(models: Path) -> Path:
    return write_embedder(models / "embedder")


@pytest.fixture
def embedder(folder: Path) -> Engine:
    return load(folder, precision=FLOAT, task="embedding", threads=1)


def _reference(folder: Path, text: str) -> NDArray[np.float32]:
    """What the model's card computes: the last token's state, of length 1."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        row = model(**ids).last_hidden_state[0, -1]
    unit: NDArray[np.float32] = torch.nn.functional.normalize(row, dim=0).numpy()
    return unit


@pytest.mark.reference
def test_an_embedding_is_transformers(embedder: Engine, folder: Path) -> None:
    """Documents as they are, queries with the model's instruction or another one."""
    for text, query in ((TEXT, False), (QUERY + TEXT, True)):
        got = embedder.embed(TEXT, query=query)
        np.testing.assert_allclose(got, _reference(folder, text), atol=TOLERANCE, rtol=0)
    got = embedder.embed(TEXT, instruction="Find proverbs")
    np.testing.assert_allclose(
        got, _reference(folder, f"Instruct: Find proverbs\nQuery:{TEXT}"), atol=TOLERANCE, rtol=0
    )


@pytest.mark.reference
def test_a_tokenizer_that_adds_nothing_gets_nothing_added(tmp_path: Path) -> None:
    """As that of a Qwen3 which was fine-tuned with sentence-transformers: the last token is one of the text."""
    folder = write_embedder(tmp_path / "tuned", ends=False)
    with load(folder, precision=FLOAT, task="embedding", threads=1) as tuned:
        got = tuned.embed(TEXT)
        with pytest.raises(InputError, match="the text is empty, and this model adds nothing to it"):
            tuned.embed("")
    np.testing.assert_allclose(got, _reference(folder, TEXT), atol=TOLERANCE, rtol=0)


def test_fewer_dimensions_are_the_first_of_length_1(embedder: Engine) -> None:
    whole, part = embedder.embed(TEXT), embedder.embed(TEXT, dimensions=16)
    assert part.shape == (16,)
    np.testing.assert_allclose(part, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
    with pytest.raises(InputError, match="dimensions is 65, but must be from 1 to 64"):
        embedder.embed(TEXT, dimensions=65)
    with pytest.raises(ContextLengthError):
        embedder.embed("word " * 200)


def test_text_never_becomes_a_control_token(embedder: Engine) -> None:
    prompt = embedder.embedding_prompts.prompt("a<|endoftext|>b")
    assert prompt.count(embedder.tokenizer.end_of_text) == 1
    assert prompt[-1] == embedder.tokenizer.end_of_text


def test_all_forms_of_a_model_give_the_same(embedder: Engine, tmp_path: Path) -> None:
    """Tensors with and without "model.", and GGUF with its own word for the last token."""
    whole = write_embedder(tmp_path / "whole", bare=False)
    config = tiny_config("qwen3", max_position_embeddings=128)
    gguf = write_gguf(tmp_path / "e.gguf", config, seed=5, values={"qwen3.pooling_type": 3})
    for path in (whole, gguf):
        with load(path, precision=FLOAT, task="embedding", threads=1) as other:
            np.testing.assert_allclose(other.embed(TEXT), embedder.embed(TEXT), atol=1e-5, rtol=0)


def test_other_ways_of_pooling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pools by pooling_mode_mean_tokens, which is unsupported"):
        open_checkpoint(write_embedder(tmp_path / "mean", pooling="mean_tokens"))
    gguf = write_gguf(tmp_path / "e.gguf", tiny_config("qwen3"), values={"qwen3.pooling_type": 1})
    with pytest.raises(ConfigError, match="pools by pooling_type 1"):
        open_checkpoint(gguf)
    other = write_gguf(tmp_path / "o.gguf", tiny_config("qwen2.5"), values={"qwen2.pooling_type": 3})
    with pytest.raises(ConfigError, match="makes embeddings with Qwen2ForCausalLM, which is unsupported"):
        open_checkpoint(other)


def test_a_model_is_used_for_what_it_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="embedder gives embeddings and writes no text"):
        load(folder, precision=FLOAT)
    chat = write_checkpoint(tmp_path / "chat", tiny_config("qwen3"))
    with pytest.raises(InputError, match="chat writes text and gives no embeddings"):
        load(chat, precision=FLOAT, task="embedding")
    with load(chat, precision=FLOAT) as loaded, pytest.raises(ConfigError, match='no tokens "yes" and "no"'):
        loaded.relevance("a", "b")


@pytest.mark.parametrize("dtype", ["F32", "Q8_0"])
def test_a_reranker_in_gguf(dtype: str, tmp_path: Path) -> None:
    """As llama.cpp's converter writes it: the two rows of the head that the scores come from stand there twice."""
    folder = write_reranker(tmp_path / "reranker")
    with load(folder, precision=FLOAT, task="rerank", threads=1) as loaded:
        wanted = loaded.relevance("What is the capital?", TEXT)
        rows = [loaded.tokenizer.encode(word)[0] for word in ("yes", "no")]
    config = tiny_config("qwen3", max_position_embeddings=512)
    weights = random_weights(config, 6)
    ranking = weights["model.embed_tokens.weight"][rows]
    values = {"qwen3.pooling_type": 4, "qwen3.classifier.output_labels": ["yes", "no"]}

    def written(**changes: Any) -> Path:
        more: dict[str, Any] = {
            "values": values,
            "weights": weights | {"cls.output.weight": ranking},
        } | changes
        with patch.object(checkpoints, "_WORDS", (*checkpoints._WORDS, "yes", "no")):
            return write_gguf(tmp_path / "r.gguf", config, dtype=dtype, **more)

    with load(written(), precision=FLOAT, task="rerank", threads=1) as loaded:
        tolerance = 1e-5 if dtype == "F32" else 0.05
        assert loaded.relevance("What is the capital?", TEXT) == pytest.approx(wanted, abs=tolerance)
    for changes in (
        {"weights": weights | {"cls.output.weight": ranking[::-1].copy()}},
        {"weights": weights | {"cls.output.weight": ranking[:1].copy()}},
        {"values": values | {"qwen3.classifier.output_labels": ["good", "bad"]}},
    ):
        with pytest.raises(ConfigError, match="ranks with an output layer of its own"):
            open_checkpoint(written(**changes))


@pytest.mark.reference
def test_relevance_is_that_of_the_models_card(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_reranker(tmp_path / "reranker")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    start = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    pair = "<Instruct>: Find proverbs\n<Query>: What is the capital?\n<Document>: " + TEXT
    end = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ids = [token for part in (start, pair, end) for token in tokenizer(part).input_ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    two = logits[[tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]]
    wanted = torch.nn.functional.log_softmax(two, dim=0)[1].exp().item()
    with load(folder, precision=FLOAT, task="rerank", threads=1) as loaded:
        got = loaded.relevance("What is the capital?", TEXT, "Find proverbs")
        assert got == pytest.approx(wanted, abs=TOLERANCE)
        # What the query has in common is read once; the result is the same.
        loaded.relevance("What is the capital?", "Another document.", "Find proverbs")
        assert loaded.relevance("What is the capital?", TEXT, "Find proverbs") == got
