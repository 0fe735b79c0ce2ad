"""Whether a checkpoint gives embeddings, and that it gives them as we do: the hidden state of the last token."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ConfigError
from bmqwen.model.config import ModelConfig
from bmqwen.util.json_file import read_json_object
from bmqwen.weights.gguf import RANKING, GgufWeights
from bmqwen.weights.gguf_file import GgufFile

MODULES_FILE = "modules.json"
_LAST = "lasttoken"
# llama.cpp's numbers for ways of pooling.
_GGUF_NONE, _GGUF_LAST, _GGUF_RANK = 0, 3, 4
# How near rows of two roundings of a matrix are; those of other matrices are at right angles.
_SAME = 0.9


def folder_config(config: ModelConfig, folder: Path) -> ModelConfig:
    """Return the configuration of the model in a folder, without a head where it is one of sentence-transformers.

    Raises ConfigError for a model that makes embeddings in another way.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        return config
    modules = {str(module.get("type", "")).rpartition(".")[2]: module for module in _modules(path)}
    if "Pooling" not in modules:  # rerankers have such a list as well
        return config
    for kind in modules.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ConfigError(
            f"{path} has a module of the type {kind[:40]!r}, which is unsupported; supported are embeddings that are "
            "the last token's hidden state"
        )
    pooling = folder / str(modules["Pooling"].get("path") or "") / "config.json"
    # It may not have been downloaded, and no Qwen3 is published with another one.
    stated = read_json_object(pooling, ConfigError) if pooling.is_file() else {f"pooling_mode_{_LAST}": True}
    chosen = [key for key, value in stated.items() if key.startswith("pooling_mode_") and value is True]
    if chosen != [f"pooling_mode_{_LAST}"] and stated.get("pooling_mode") != _LAST:
        raise _unsupported(str(pooling), ", ".join(chosen) or str(stated.get("pooling_mode"))[:40])
    return _headless(config, str(path))


def gguf_pooling(config: ModelConfig, file: GgufFile) -> ModelConfig:
    """Return the configuration of the model in a GGUF file, without a head where its metadata names a way of pooling.

    A reranker has one: its two rows of the head are stored besides (`check_ranking`).

    Raises ConfigError for another way than that of the last token.
    """
    kind = file.metadata.get(f"{config.architecture.gguf_name}.pooling_type", _GGUF_NONE)
    if kind in (_GGUF_NONE, _GGUF_RANK):
        return config
    if kind != _GGUF_LAST:
        raise _unsupported(str(file.path), f"pooling_type {str(kind)[:20]}")
    return _headless(config, str(file.path))


def check_ranking(weights: GgufWeights, config: ModelConfig) -> None:
    """Raise ConfigError for a GGUF file of a reranker whose scores are not the logits of "yes" and "no", as those of
    Qwen3-Reranker are. llama.cpp's converter stores these rows of the head once more, under the names of the words.
    """
    file, arch = weights.file, config.architecture.gguf_name
    if RANKING not in file.tensors:
        return
    labels = file.strings(f"{arch}.classifier.output_labels") or []
    tokens = file.strings("tokenizer.ggml.tokens") or []
    if sorted(labels) == ["no", "yes"] and {*labels} <= {*tokens} and len(weights.shape(RANKING)) == 2:
        places = [tokens.index(label) for label in labels]
        head = f"{config.network.head_weight}.weight"
        own = [weights.read_rows(head, place, place + 1)[0] for place in places]
        stored = weights.read_rows(RANKING, 0, weights.shape(RANKING)[0])
        if stored.shape == (2, config.hidden_size) and all(map(_alike, own, stored)):
            return
    raise ConfigError(
        f"{file.path} ranks with an output layer of its own ({RANKING}), which is unsupported: use a Qwen3-Reranker in "
        "safetensors"
    )


def _alike(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether two vectors point the same way."""
    lengths = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return float(first @ second) >= _SAME * lengths > 0


def _headless(config: ModelConfig, source: str) -> ModelConfig:
    if config.architecture.headless_name is None:
        raise ConfigError(
            f"{source} makes embeddings with {config.architecture.class_name}, which is unsupported: use one with "
            "Qwen3, such as Qwen3-Embedding-0.6B"
        )
    return replace(config, headless=True)


def _unsupported(source: str, way: str) -> ConfigError:
    return ConfigError(
        f"{source} pools by {way}, which is unsupported: only the last token's state is supported"
    )


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}): download it again") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ConfigError(f"{path} is no list of modules: download it again")
    return modules
