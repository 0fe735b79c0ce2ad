"""Tiny checkpoints that say a known text: each token has one successor, whatever came before it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tokenizers

from support.checkpoints import random_weights, tiny_config, write_checkpoint

SAYS = "hello you and the你好。🎉"
REPEATS = " you and the"


def write_talker(folder: Path, *, endless: bool = False, context: int = 512) -> Path:
    """Write a checkpoint that answers SAYS or, if `endless`, "hello" and then REPEATS until the context is full."""
    config = tiny_config("qwen1.5", layers=1, max_position_embeddings=context)
    write_checkpoint(folder, config)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    answer = tokenizer.encode("hello" + REPEATS if endless else SAYS).ids
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
    return write_checkpoint(folder, config, weights=weights)


def _heads(
    chain: Sequence[int], embeddings: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A head by which each token of the chain is followed by the next."""
    head = np.zeros_like(embeddings)
    for token, follower in pairwise(chain):
        head[follower] += embeddings[token]
    return head
