"""The same model with its residual stream rotated: what the weights then hold is rounded with less loss.

Every norm's weights are put into the matrices that read its result; what is left of a norm commutes with an orthogonal
matrix R, so that R can be put into the table, the matrices that read the stream and those that write to it (QuaRot,
arXiv 2404.00456, section 4). R flips signs, then is a Hadamard matrix in blocks: outliers of single columns are spread.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.architecture import block_prefix
from bmqwen.model.config import ModelConfig
from bmqwen.weights.checkpoint import Checkpoint
from bmqwen.weights.weights import Weights

Rows = NDArray[np.float32]

TABLE, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_MOST_BLOCK = 128
# Matrices of a layer that read the stream, by the norm before them, and those that write to it.
_READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
_WRITERS = ("self_attn.o_proj", "mlp.down_proj")
_APART = ("self_attn.q_norm", "self_attn.k_norm")


def rotated(checkpoint: Checkpoint) -> Checkpoint:
    """Return the same model rotated, whose head is never tied; itself where its layers are of another kind."""
    config = checkpoint.config
    known = {*_READERS, *sum(_READERS.values(), ()), *_WRITERS, *_APART}
    prefixes = tuple(f"{block_prefix(layer)}." for layer in range(config.num_hidden_layers))
    for name in config.network.shapes():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is not None and name.removeprefix(prefix).rpartition(".")[0] not in known:
            return checkpoint
    weights = RotatedWeights(checkpoint.weights, config)
    return replace(checkpoint, weights=weights, config=replace(config, tie_word_embeddings=False))


class RotatedWeights:
    """Weights of the rotated model, computed as they are read."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        """Take a model's weights and its configuration."""
        self._weights, self._tied = weights, config.tie_word_embeddings
        hidden = config.hidden_size
        self._block = min(hidden & -hidden, _MOST_BLOCK)
        self._signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), hidden)
        self._hadamard = _hadamard(self._block)
        self._norm_of = {HEAD: NORM}
        self._ones, self._writers = {NORM}, set[str]()
        for prefix in map(block_prefix, range(config.num_hidden_layers)):
            for norm, readers in _READERS.items():
                self._ones.add(f"{prefix}.{norm}.weight")
                for reader in readers:
                    self._norm_of[f"{prefix}.{reader}.weight"] = f"{prefix}.{norm}.weight"
            self._writers |= {f"{prefix}.{writer}" for writer in _WRITERS}

    def names(self) -> frozenset[str]:
        return self._weights.names() | {HEAD}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(self._source(name))

    def read(self, name: str) -> Rows:
        shape = self.shape(name)
        if len(shape) == 2:
            return self.read_rows(name, 0, shape[0])
        if name in self._ones:
            return np.ones(shape, np.float32)
        values = self._weights.read(name)
        return self._turned(values) if name.removesuffix(".bias") in self._writers else values

    def read_rows(self, name: str, start: int, stop: int) -> Rows:
        if name.removesuffix(".weight") in self._writers:
            # Rows of a block are made of each other.
            first = start - start % self._block
            last = min(-(-stop // self._block) * self._block, self.shape(name)[0])
            rows = self._weights.read_rows(name, first, last).T
            turned = self._turned(rows, slice(first, last)).T
            return np.ascontiguousarray(turned[start - first : stop - first])
        rows = self._weights.read_rows(self._source(name), start, stop)
        if (norm := self._norm_of.get(name)) is not None:
            rows = rows * self._weights.read(norm)
        return self._turned(rows) if name == TABLE or norm is not None else rows

    def _source(self, name: str) -> str:
        return TABLE if name == HEAD and self._tied else name

    def _turned(self, rows: Rows, part: slice = slice(None)) -> Rows:
        """Rows [..., hidden] times R; `part`: rows of the whole blocks at these columns."""
        y = rows * self._signs[part]
        turned: Rows = (y.reshape(-1, self._block) @ self._hadamard).reshape(rows.shape)
        return turned


def _hadamard(size: int) -> Rows:
    """An orthogonal matrix of equal magnitudes (Sylvester's), for a power of two."""
    h = np.ones((1, 1), np.float32)
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    scaled: Rows = (h / np.sqrt(np.float32(size))).astype(np.float32)
    return scaled
