"""Tiny random models for embeddings and reranking, with files as the published ones have them."""

import json
from pathlib import Path
from unittest.mock import patch

from tokenizers import Tokenizer, processors

from support import checkpoints
from support.checkpoints import random_weights, tiny_config, write_checkpoint

QUERY = "Instruct: Find what answers this\nQuery:"


def write_embedder(
    folder: Path,
    *,
    bare: bool = True,
    pooling: str = "lasttoken",
    hidden_size: int = 64,
    ends: bool = True,
) -> Path:
    """A Qwen3 with the files of sentence-transformers; `bare`: saved without its head, tensors without "model.".

    `ends`: its tokenizer ends a text by itself, as Qwen3-Embedding's does and Qwen3's does not.
    """
    config = tiny_config(
        "qwen3", hidden_size=hidden_size, intermediate_size=2 * hidden_size, max_position_embeddings=128
    )
    weights = random_weights(config, 5)
    if bare:
        weights = {name.removeprefix("model."): values for name, values in weights.items()}
    with patch.object(checkpoints, "as_stored", lambda _config, tensors: tensors):
        write_checkpoint(folder, config, weights=weights)
    if bare:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"architectures": ["Qwen3Model"]}))
    if ends:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = "<|endoftext|>"
        template = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
        tokenizer.save(str(folder / "tokenizer.json"))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    ways = ("cls_token", "mean_tokens", "lasttoken")
    stated = {f"pooling_mode_{way}": way == pooling for way in ways}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **stated}))
    prompts = {"prompts": {"query": QUERY, "document": ""}, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def write_reranker(folder: Path) -> Path:
    """A Qwen3 whose tokenizer has "yes" and "no"."""
    with patch.object(checkpoints, "_WORDS", (*checkpoints._WORDS, "yes", "no")):
        return write_checkpoint(folder, tiny_config("qwen3", max_position_embeddings=512), seed=6)
