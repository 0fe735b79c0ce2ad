"""The network computed in float32 by numpy: slow, needs one matrix in memory at a time, and easy to trust."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.model.ops import Heads
from bmqwen.model.rope import rope_tables

Rows = NDArray[np.float32]


class NumpyOps:
    """Evaluates a whole sequence while the network is emitted: `emit` returns the logits of the wanted rows.

    Attributes:
        cache: keys (after rotation) and values of each layer in turn, float32 [tokens, kv_heads, head_dim].
        states: after so many tokens (`stops`) those of the layers that have one, as a compiled net takes them: by the
            name of its input, "conv_state.0" float32 [kernel - 1, width], "delta_state.0" [heads, key_dim, value_dim].
    """

    def __init__(
        self,
        config: ModelConfig,
        blocks: WeightBlocks,
        tokens: Sequence[int],
        wanted: Sequence[int],
        lengths: Sequence[int] | None = None,
        *,
        stops: Sequence[int] = (),
    ) -> None:
        """Take tokens that start at position 0, and the rows whose logits are computed.

        `lengths`: the tokens are those of several sequences, one behind the other, each from position 0 on.
        `stops`: numbers of tokens after which the states are kept.
        """
        self.config, self.cache = config, list[Rows]()
        self.states: dict[int, dict[str, Rows]] = {stop: {} for stop in stops}
        self._blocks, self._tokens, self._wanted = blocks, tokens, wanted
        lengths = [len(tokens)] if lengths is None else lengths
        ends = list(accumulate(lengths))
        self._sequences = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        tables = rope_tables(config, max(lengths))
        # Every sequence's positions; both halves of a head have the same angles.
        self._cos, self._sin = (
            np.tile(np.concatenate([table[:length] for length in lengths]), 2)[:, None] for table in tables
        )

    def embed(self, weight: str) -> Rows:
        """Read the tokens' rows of the table."""
        rows = {t: self._blocks.weights.read_rows(f"{weight}.weight", t, t + 1)[0] for t in set(self._tokens)}
        return np.stack([rows[t] for t in self._tokens])

    def rms_norm(self, x: Rows, weight: str) -> Rows:
        """Compute it as defined."""
        mean = np.mean(x * x, axis=-1, keepdims=True)
        scaled: Rows = x / np.sqrt(mean + np.float32(self.config.rms_norm_eps))
        return scaled * self._blocks.vector(f"{weight}.weight")

    def add_rms_norm(self, x: Rows, delta: Rows, weight: str) -> tuple[Rows, Rows]:
        """Emit the sum, then the norm."""
        total = x + delta
        return total, self.rms_norm(total, weight)

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Compute the products side by side, a block of a matrix at a time."""
        y = np.concatenate([self._product(x, weight) for weight in weights], axis=1)
        return y + self._blocks.vector(*(f"{weight}.bias" for weight in weights)) if bias else y

    def heads(self, qkv: Rows, layer: int) -> Heads[Rows]:
        """Split into parts [C, heads, head_dim]."""
        c = self.config
        parts = np.split(qkv, [c.q_size, c.q_size + c.kv_size], 1)
        return Heads(layer, *(part.reshape(len(qkv), -1, c.head_dim) for part in parts))

    def head_norm(self, heads: Heads[Rows], query: str, key: str) -> Heads[Rows]:
        """Compute it as any norm: over the last axis."""
        return replace(heads, query=self.rms_norm(heads.query, query), key=self.rms_norm(heads.key, key))

    def rope(self, heads: Heads[Rows]) -> Heads[Rows]:
        """Rotate with halves paired."""
        return replace(heads, query=self._rotate(heads.query), key=self._rotate(heads.key))

    def attend(self, heads: Heads[Rows]) -> Rows:
        """Compute causal attention from position 0 on; layers come in turn."""
        self.cache += [heads.key, heads.value]
        return np.concatenate([self._attended(heads, rows) for rows in self._sequences])

    def sigmoid_gate(self, x: Rows, gate: Rows) -> Rows:
        """Compute it as defined."""
        y: Rows = x * _sigmoid(gate)
        return y

    def short_convolution(self, x: Rows, weight: str, layer: int) -> Rows:
        """Sum shifted rows, from an empty state on."""
        kernel = self._blocks.vector(f"{weight}.weight")[:, 0]
        width = kernel.shape[1]
        padded = np.pad(x, ((width - 1, 0), (0, 0)))
        for stop, states in self.states.items():
            states[f"conv_state.{layer}"] = padded[stop : stop + width - 1]
        y: Rows = sum((padded[tap : tap + len(x)] * kernel[:, tap] for tap in range(width)), np.zeros_like(x))
        return y * _sigmoid(y)

    def gated_delta(self, qkv: Rows, decay: Rows, beta: Rows, a_log: str, dt_bias: str, layer: int) -> Rows:
        """Compute it token by token, from an empty state on."""
        one = self.config.linear_sizes
        group = one.linear_num_value_heads // one.linear_num_key_heads
        q, k, v = (
            part.reshape(len(qkv), -1, dim)
            for part, dim in zip(
                np.split(qkv, [one.key_dim, 2 * one.key_dim], axis=1),
                (one.linear_key_head_dim, one.linear_key_head_dim, one.linear_value_head_dim),
                strict=True,
            )
        )
        q, k = (np.repeat(_unit(part), group, axis=1) for part in (q, k))
        q = q * np.float32(one.linear_key_head_dim**-0.5)
        raw = decay + self._blocks.vector(dt_bias)
        kept = np.exp(-np.exp(self._blocks.vector(a_log)) * np.logaddexp(0, raw))
        rate = _sigmoid(beta)
        state, y = np.zeros(one.delta_state, np.float32), np.empty_like(v)
        self._keep_delta(0, layer, state)
        for at in range(len(qkv)):
            state = state * kept[at][:, None, None]
            delta = rate[at][:, None] * (v[at] - np.einsum("hkv,hk->hv", state, k[at]))
            state = state + k[at][:, :, None] * delta[:, None]
            y[at] = np.einsum("hkv,hk->hv", state, q[at])
            self._keep_delta(at + 1, layer, state)
        return y.reshape(len(qkv), -1)

    def gated_norm(self, x: Rows, gate: Rows, weight: str) -> Rows:
        """Compute it as defined."""
        heads = x.reshape(len(x), -1, self.config.linear_sizes.linear_value_head_dim)
        y: Rows = self.rms_norm(heads, weight).reshape(x.shape) * gate * _sigmoid(gate)
        return y

    def swiglu(self, gate_up: Rows) -> Rows:
        """Emit silu(gate) * up."""
        gate, up = np.split(gate_up, 2, axis=1)
        y = _sigmoid(gate)
        y *= gate
        y *= up
        return y

    def last_layer_rows(self, x: Rows, attended: Rows) -> tuple[Rows, Rows]:
        """Keep all."""
        return x, attended

    def wanted_rows(self, x: Rows) -> Rows:
        """Take the rows asked for."""
        return x[list(self._wanted)]

    def hidden(self, x: Rows) -> Rows:
        """Return them."""
        return x

    def logits(self, x: Rows, weight: str) -> Rows:
        """Compute x @ W^T."""
        return self._product(x, weight)

    def _keep_delta(self, tokens: int, layer: int, state: Rows) -> None:
        """Keep the state after so many tokens, if it is wanted."""
        if tokens in self.states:
            self.states[tokens][f"delta_state.{layer}"] = state

    def _product(self, x: Rows, weight: str) -> Rows:
        blocks = self._blocks.floats([f"{weight}.weight"], np.float32)
        return np.concatenate([x @ block.T for block in blocks], axis=1).astype(np.float32, copy=False)

    def _attended(self, heads: Heads[Rows], rows: slice) -> Rows:
        """Attention of one sequence."""
        c = self.config
        q = heads.query[rows].transpose(1, 0, 2)
        k, v = (
            np.repeat(part[rows], c.group, axis=1).transpose(1, 0, 2) for part in (heads.key, heads.value)
        )
        scores: Rows = q @ k.transpose(0, 2, 1) * np.float32(c.head_dim**-0.5)
        scores += np.triu(np.full(scores.shape[1:], -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        y: Rows = (scores @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)
        return y

    def _rotate(self, x: Rows) -> Rows:
        x, rest = np.split(x, [self.config.rotary_dim], axis=2)
        first, second = np.split(x, 2, axis=2)
        y = x * self._cos + np.concatenate([-second, first], axis=2) * self._sin
        return np.concatenate([y, rest], axis=2)


class WatchedOps(NumpyOps):
    """Notes how large values become: what half precision cannot hold shows here.

    Attributes:
        largest: greatest absolute value of a product or sum so far; NaN stays.
    """

    largest = 0.0

    def add_rms_norm(self, x: Rows, delta: Rows, weight: str) -> tuple[Rows, Rows]:
        """Compute the sum, which is noted, and its norm."""
        total, normed = super().add_rms_norm(x, delta, weight)
        self.watch(total)
        return total, normed

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Compute the products, which are noted."""
        y = super().linear(x, *weights, bias=bias)
        self.watch(y)
        return y

    def swiglu(self, gate_up: Rows) -> Rows:
        """Compute it; its result is noted."""
        y = super().swiglu(gate_up)
        self.watch(y)
        return y

    def watch(self, values: Rows) -> None:
        """Note the largest of some values."""
        # Of all calibration tokens they may be gigabytes: without a second array of that size.
        self.largest = float(np.maximum(self.largest, np.maximum(values.max(), -values.min())))


def _sigmoid(x: Rows) -> Rows:
    y: Rows = x * np.float32(0.5)
    np.tanh(y, out=y)
    y += 1
    y *= np.float32(0.5)
    return y


def _unit(x: Rows) -> Rows:
    """Vectors of length 1, along the last axis."""
    y: Rows = x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + np.float32(1e-6))
    return y
