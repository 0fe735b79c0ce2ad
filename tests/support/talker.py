"""Tiny checkpoints that say a known text: each token has one successor, whatever came before it."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken

from support.checkpoints import CHAT_TEMPLATE, random_weights, tiny_config, write_checkpoint

SAYS = "hello you and the你好。🎉"
REPEATS = " you and the"


# What a model of the kind of Qwen3 says: thoughts between tokens of their own, then the answer.
THINKS, ANSWERS = " and the", "hello you。"
_TAGS = ("<think>", "</think>")
_OFF = "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"


def write_thinker(folder: Path) -> Path:
    """Write a checkpoint that thinks THINKS and answers ANSWERS; told not to think, it answers nothing."""
    write_talker(folder, says=f"{_TAGS[0]}{THINKS}{_TAGS[1]}{ANSWERS}", tokens=_TAGS)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = CHAT_TEMPLATE.removesuffix("{% endif %}") + _OFF
    path.write_text(json.dumps(config))
    return folder


def write_talker(
    folder: Path,
    *,
    endless: bool = False,
    context: int = 512,
    says: str = SAYS,
    tokens: Sequence[str] = (),
    layers: int = 1,
) -> Path:
    """Write a checkpoint that answers `says` or, if `endless`, "hello" and then REPEATS until the context is full.

    `tokens` are added to its tokenizer. More `layers` only take longer.
    """
    config = tiny_config("qwen1.5", layers=layers, max_position_embeddings=context)
    write_checkpoint(folder, config)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    answer = tokenizer.encode("hello" + REPEATS if endless else says).ids
    first = tokenizer.encode("\n").ids
    last = answer[1] if endless else int(tokenizer.token_to_id("<|im_end|>") or 0)
    weights = random_weights(config, seed=0)
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weights[name])
    weights["model.norm.weight"] = np.ones_like(weights["model.norm.weight"])
    signs = np.random.default_rng(0).choice(
        np.array([-1, 1], np.float32), (config.vocab_size, config.hidden_size)
    )
    weights["model.embed_tokens.weight"] = signs
    weights["lm_head.weight"] = _heads([*first, *answer, last], signs)
    write_checkpoint(folder, config, weights=weights)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _heads(
    chain: Sequence[int], embeddings: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A head by which each token of the chain is followed by the next."""
    head = np.zeros_like(embeddings)
    for token, follower in pairwise(chain):
        head[follower] += embeddings[token]
    return head
