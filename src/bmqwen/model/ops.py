"""The operations that the network is written in. Each emitter implements them for its own target."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Heads(Generic[T]):
    """Queries, keys and values of a layer, split into heads: for an emitter that writes out every operation."""

    layer: int
    query: T
    key: T
    value: T


class Ops(Protocol[T, H]):
    """Operations on rows of hidden states T: [C, width], C being the tokens of one step.

    H holds the queries, keys and values of one layer, split into heads. What an emitter makes of it is its own
    affair: between `heads` and `attend` it may wait and fuse what it recognises.
    Weights are named as in the checkpoint, without ".weight" and ".bias". Where fusing pays, the operation is
    coarse enough that an emitter may fuse (projections that share an input, residual and norm).
    """

    def embed(self, weight: str) -> T:
        """Look up the rows of the embedding table for the step's token ids: [C, hidden]."""

    def rms_norm(self, x: T, weight: str) -> T:
        """Compute x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    def add_rms_norm(self, x: T, delta: T, weight: str) -> tuple[T, T]:
        """Compute the residual sum x + delta, and its rms_norm."""

    def linear(self, x: T, *weights: str, bias: bool = False) -> T:
        """Compute x @ W^T (+ b) for each weight, side by side along the last axis."""

    def heads(self, qkv: T, layer: int) -> H:
        """Split a layer's query, key and value projections, which lie side by side, into heads of head_dim."""

    def head_norm(self, heads: H, query: str, key: str) -> H:
        """Apply rms_norm to each query head with weight `query`, to each key head with `key`: both [head_dim]."""

    def rope(self, heads: H) -> H:
        """Apply the rotary position embedding to queries and keys."""

    def attend(self, heads: H) -> T:
        """Compute causal attention over the history and the step itself: [C, heads * head_dim].

        Appends the step's keys and values, as they are given, to the layer's KV cache.
        """

    def sigmoid_gate(self, x: T, gate: T) -> T:
        """Compute x * sigmoid(gate)."""

    def short_convolution(self, x: T, weight: str, layer: int) -> T:
        """Compute silu of a causal convolution over the tokens, for each column with a kernel of its own.

        `weight` is [width, 1, kernel]. The last kernel - 1 rows are the layer's state for the next step.
        """

    def gated_delta(self, qkv: T, decay: T, beta: T, a_log: str, dt_bias: str, layer: int) -> T:
        """Compute the gated delta rule over the tokens: [C, value heads * value_head_dim].

        Per value head, with S [value_dim, key_dim] the layer's state, q and k of length 1 (q over the root of
        key_dim besides), g = -exp(a_log) * softplus(decay + dt_bias) and b = sigmoid(beta):
        S = exp(g) S; S = S + b (v - S k) k^T; the result is S q (arXiv 2412.06464, equation 10).
        """

    def gated_norm(self, x: T, gate: T, weight: str) -> T:
        """Compute rms_norm(x) * silu(gate) over each head of value_head_dim."""

    def swiglu(self, gate_up: T) -> T:
        """Compute silu(gate) * up, of two halves side by side."""

    def last_layer_rows(self, x: T, attended: T) -> tuple[T, T]:
        """Leave out rows of the last layer, once it has attended, whose logits nobody wants, or keep them."""

    def wanted_rows(self, x: T) -> T:
        """Keep only those rows whose logits are wanted."""

    def hidden(self, x: T) -> T:
        """Give the rows themselves as the step's result."""

    def logits(self, x: T, weight: str) -> T:
        """Compute x @ W^T over the vocabulary, the step's result."""
