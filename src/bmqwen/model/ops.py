"""The operations that the network is written in. Each emitter implements them for its own target."""

from typing import Protocol, TypeVar

T = TypeVar("T")


class Ops(Protocol[T]):
    """A dozen operations on rows of hidden states [C, width], C being the tokens of one step.

    Weights are named as in the checkpoint, without ".weight" and ".bias". Where fusing pays, the operation is
    coarse enough that an emitter may fuse (projections that share an input, residual and norm).
    """

    def embed(self, weight: str) -> T:
        """Rows of the embedding table for the step's token ids: [C, hidden]."""

    def rms_norm(self, x: T, weight: str) -> T:
        """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    def add_rms_norm(self, x: T, delta: T, weight: str) -> tuple[T, T]:
        """The residual sum x + delta, and its rms_norm."""

    def linear(self, x: T, *weights: str, bias: bool = False) -> T:
        """x @ W^T (+ b) for each weight, side by side along the last axis."""

    def attention(self, qkv: T, layer: int) -> T:
        """Causal attention with rotary position embedding over the history and the step itself.

        Takes the query, key and value projections side by side and appends the step's keys (after rotation) and
        values to the layer's KV cache. Returns [C, heads * head_dim].
        """

    def swiglu(self, gate_up: T) -> T:
        """silu(gate) * up, of two halves side by side."""

    def wanted_rows(self, x: T) -> T:
        """Only those rows whose logits are wanted."""

    def logits(self, x: T, weight: str) -> T:
        """x @ W^T over the vocabulary, the step's result."""
