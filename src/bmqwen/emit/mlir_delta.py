"""Layers of the gated delta rule in Top-MLIR: all tokens of a net at once, or one by the chip's own kernel."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.states import levels, state_inputs, uses_kernel
from bmqwen.artifact.steps import StepShape
from bmqwen.emit.mlir_file import MlirFile, Value
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig

_EPS = 1e-6

Store = Callable[[str, Any, Sequence[int], Callable[[WeightBlocks], Iterable[NDArray[Any]]]], None]
Floats = NDArray[np.float32]


class DeltaLayers:
    """Emits what the layers with a state have beside products, for one net.

    Inputs: those of `state_inputs`; for each layer `conv_state.N` half [1, kernel - 1, width] and `delta_state.N` half
    [1, value heads, key_dim, value_dim].
    Outputs, the states after the step: `conv_after.N` and `delta_after.N`. They must not lie where the inputs do: the
    compiler may read an input again after it has written a part of an output. But where `uses_kernel` says so,
    `delta_after.N` has to lie there, and the step's token is always one that the state is to have seen.

    Attributes:
        states: these outputs, of the layers so far.
    """

    # Whether to use the chip's kernel where there is one.
    _kernel = True

    def __init__(self, file: MlirFile, config: ModelConfig, shape: StepShape, store: Store) -> None:
        """Declare the inputs of all layers. `store` takes a weight."""
        self._file, self._sizes, self._tokens, self._store = file, config.linear_sizes, shape.tokens, store
        inputs = {
            name: file.input(name, dims, np.int32 if name == "state_rows" else np.float32)
            for name, dims in state_inputs(config, shape).items()
        }
        self._committed, self._rows, self._masks = inputs.values()
        self._past = {
            layer: (
                file.input(f"conv_state.{layer}", (1, *self._sizes.conv_state)),
                file.input(f"delta_state.{layer}", (1, *self._sizes.delta_state), np.float16),
            )
            for layer in config.state_layers
        }
        self.states: list[Value] = []
        self._kernel = self._kernel and uses_kernel(config, shape.tokens)
        self._names = (f"delta.{number}" for number in range(1 << 30))
        if shape.tokens == 1:
            # All nets have the same inputs, and the compiler drops what is not used.
            self._committed = self._two("Mul", self._committed, self._masks)

    def short_convolution(self, x: Value, weight: str, layer: int) -> Value:
        """Emit a product and a sum for each tap, over the rows before and the step's."""
        f, width, name = self._file, x.shape[2], f"{weight}.weight"
        rows = f.concat([self._past[layer][0], x], 1, f"conv.{layer}.rows")
        shape = (1, *self._sizes.conv_state)
        self.states.append(f.op("Gather", [rows, self._rows], shape, f"conv_after.{layer}", axis="1 : si32"))
        total: Value | None = None
        for tap in range(self._sizes.linear_conv_kernel_dim):
            kernel = self._vector(f"{name}.{tap}", (1, 1, width), name, partial(_tap, tap))
            part = f.slice(rows, 1, tap, tap + self._tokens, f"conv.{layer}.{tap}.rows")
            part = self._two("Mul", part, kernel, f"conv.{layer}.{tap}")
            total = part if total is None else self._two("Add", total, part, f"conv.{layer}.{tap}.sum")
        assert total is not None
        return self._one("SiLU", total, f"conv.{layer}.silu")

    def gate(self, x: Value, weight: str) -> Value:
        """Emit x @ W^T of a weight with a row for each head, as W @ x^T: read the other way its rows are too short."""
        f, name = self._file, f"{weight}.weight"
        (_, tokens, columns), rows = x.shape, self._sizes.linear_num_value_heads
        self._store(name, np.float32, (1, rows, columns), lambda blocks: blocks.floats([name], np.float32))
        turned = f.op(
            "MatMul",
            [f.weight(name, (1, rows, columns)), x, f.none],
            [1, rows, tokens],
            f"{weight}.turned",
            do_relu="false",
            right_transpose="true",
        )
        return f.op("Permute", [turned], [1, tokens, rows], f"{weight}.out", order="[0, 2, 1]")

    def gated_delta(
        self, qkv: Value, decay: Value, beta: Value, a_log: str, dt_bias: str, layer: int
    ) -> Value:
        """Emit the rule: the kernel, or over all tokens together (arXiv 2412.06464, section 3.3)."""
        sizes, tokens, state, name = self._sizes, self._tokens, self._past[layer][1], f"delta_after.{layer}"
        heads, flat = sizes.linear_num_value_heads, (1, tokens, sizes.value_dim)
        self._names = (f"delta.{layer}.{number}" for number in range(1 << 30))
        g, rates = self._gates(decay, beta, a_log, dt_bias)
        if self._kernel:
            if layer == min(self._past):
                # The compiler drops an input that nothing uses.
                rates = self._two("Mul", rates, self._reshaped(self._committed, (1, 1, 1)))
            y = self._recurrence(*self._parts(qkv, layer), g, rates, state)
            # No copy: the output is where the input is.
            self.states.append(self._reshaped(state, (1, 1, *state.shape[1:]), name))
            return self._reshaped(y, flat)
        g, rates = self._reshaped(g, (1, 1, heads, tokens)), self._reshaped(rates, (1, heads, tokens, 1))
        q, k, v = self._by_head(qkv, layer)
        y, delta = self._rule(q, k, v, g, rates, state)
        self.states.append(self._after(state, k, g, delta, name))
        return self._reshaped(self._turned(y, (0, 2, 1, 3)), flat)

    def _recurrence(self, q: Value, k: Value, v: Value, g: Value, rates: Value, state: Value) -> Value:
        """Emit the chip's kernel for one token: q, k and v [1, 1, heads, dim], gates as `_gates` returns them.

        It writes the new state over the old one.
        """
        sizes = self._sizes
        g, rates = (self._reshaped(x, (1, 1, x.shape[1])) for x in (g, rates))
        return self._file.op(
            "RecurrentGatedDeltaRule",
            [q, k, v, g, rates, state],
            v.shape,
            next(self._names),
            num_k_heads=f"{sizes.linear_num_key_heads} : i64",
            num_v_heads=f"{sizes.linear_num_value_heads} : i64",
            d=f"{sizes.linear_value_head_dim} : i64",
            use_qk_l2norm="false",
            scale="1.0 : f64",
        )

    def _gates(self, decay: Value, beta: Value, a_log: str, dt_bias: str) -> tuple[Value, Value]:
        """Logarithms of what a token leaves of the state, and how much of what it wants is added: [1, heads, C]."""
        decay, beta = (self._turned(x, (0, 2, 1)) for x in (decay, beta))
        shape = (1, self._sizes.linear_num_value_heads, 1)
        bias = self._vector(dt_bias, shape, dt_bias, lambda v: v)
        rate = self._vector(a_log, shape, a_log, lambda v: -np.exp(v))
        g = self._two("Mul", self._one("Softplus", self._two("Add", decay, bias)), rate)
        return g, self._one("Sigmoid", beta)

    def _parts(self, qkv: Value, layer: int) -> tuple[Value, Value, Value]:
        """Queries and keys of length 1, the former over the root of their size, and values: [1, C, heads, dim]."""
        f, one, tokens = self._file, self._sizes, self._tokens
        ends = (0, one.key_dim, 2 * one.key_dim, one.conv_dim)
        counts = (one.linear_num_key_heads, one.linear_num_key_heads, one.linear_num_value_heads)
        q, k, v = (
            self._reshaped(self._part(qkv, 2, start, stop), (1, tokens, count, (stop - start) // count))
            for start, stop, count in zip(ends, ends[1:], counts, strict=False)
        )
        dim = one.linear_key_head_dim
        eps = f"{_EPS / dim:.12e} : f64"
        q, k = (
            f.op(
                "RMSNorm",
                [x, self._filled(f"delta.{layer}.{label}", scale)],
                x.shape,
                next(self._names),
                eps=eps,
            )
            for x, label, scale in ((q, "query", 1 / dim), (k, "key", dim**-0.5))
        )
        return q, k, v

    def _by_head(self, qkv: Value, layer: int) -> tuple[Value, Value, Value]:
        """The same as matrices of each value head: [1, value heads, C, dim]."""
        one = self._sizes
        q, k, v = self._parts(qkv, layer)
        group = one.linear_num_value_heads // one.linear_num_key_heads
        if group > 1:
            q, k = (self._repeated(x, group) for x in (q, k))
        turned = [self._turned(x, (0, 2, 1, 3)) for x in (q, k, v)]
        return turned[0], turned[1], turned[2]

    def _repeated(self, x: Value, group: int) -> Value:
        """Each head so many times: [1, C, heads, dim] to [1, C, heads * group, dim]."""
        _, tokens, heads, dim = x.shape
        flat = self._reshaped(x, (1, tokens * heads, 1, dim))
        return self._reshaped(
            self._file.concat([flat] * group, 2, next(self._names)), (1, tokens, heads * group, dim)
        )

    def _rule(
        self, q: Value, k: Value, v: Value, g: Value, rates: Value, state: Value
    ) -> tuple[Value, Value]:
        """Results of the tokens, and what each adds to the state: both [1, heads, T, value_dim].

        With d_ij what token j's addition has faded to at token i, and d_i what the state has, what is added solves
        delta_i + b_i sum_{j<i} d_ij (k_i k_j) delta_j = b_i (v_i - d_i S^T k_i).
        """
        heads, tokens = k.shape[1], k.shape[2]
        written, wanted = self._two("Mul", k, rates), self._two("Mul", v, rates)
        # One product reads the state, for keys and queries.
        found = self._product(self._file.concat([written, q], 2, next(self._names)), state)
        fade = self._reshaped(self._one("Exp", self._until(g)), (1, heads, tokens, 1))
        recalled, seen = (
            self._two("Mul", self._part(found, 2, start, start + tokens), fade) for start in (0, tokens)
        )
        missing = self._two("Sub", wanted, recalled)
        if tokens == 1:
            reached = self._product(q, k, turned=True)
            return self._two("Add", seen, self._two("Mul", reached, missing)), missing
        # Each sum by itself, not as the difference of two: half precision would not hold what is between near tokens.
        pairs = self._mask(2 + levels(tokens), tokens)
        between = self._reshaped(self._product(g, pairs, turned=True), (1, heads, tokens, tokens))
        decay = self._two("Mul", self._one("Exp", between), self._mask(0))
        near = self._two("Mul", self._product(written, k, turned=True), decay)
        delta = self._product(self._inverse(near), missing)
        reached = self._two("Mul", self._product(q, k, turned=True), decay)
        return self._two("Add", seen, self._product(reached, delta)), delta

    def _inverse(self, near: Value) -> Value:
        """(I + N)^-1, N being what is below the diagonal of a matrix, by blocks of 1, 2, 4 ...

        Of two blocks on the diagonal with what lies below them, C: [[A, 0], [C, B]]^-1 = [[a, 0], [-b C a, b]], a and b
        being their inverses. Powers of N, another way, can be larger than half precision holds.
        """
        below = [self._two("Mul", near, self._mask(2 + level)) for level in range(levels(near.shape[2]))]
        inverse = self._two("Add", below[0], self._mask(1))
        for part in below[1:]:
            inverse = self._two("Add", inverse, self._product(inverse, self._product(part, inverse)))
        return inverse

    def _after(self, state: Value, k: Value, g: Value, delta: Value, name: str) -> Value:
        """The state after the tokens that are committed: what is left of it, and of what each of them added."""
        heads, tokens = k.shape[1], k.shape[2]
        kept = self._committed
        own = self._two("Mul", g, kept)
        if tokens > 1:
            later = self._product(own, self._two("Sub", self._mask(0), self._mask(1)))
            kept = self._two("Mul", self._reshaped(self._one("Exp", later), (1, heads, 1, tokens)), kept)
        total = self._part(self._until(own), 3, tokens - 1, tokens)
        faded = self._reshaped(self._one("Exp", total), (1, heads, 1, 1))
        late = self._two("Mul", self._turned(k, (0, 1, 3, 2)), kept)
        return self._two("Add", self._two("Mul", state, faded), self._product(late, delta), name)

    def _until(self, g: Value) -> Value:
        """Sums of the logarithms g [1, 1, heads, T] up to each token."""
        return g if g.shape[3] == 1 else self._product(g, self._mask(0), turned=True)

    def _mask(self, first: int, count: int = 1) -> Value:
        """Matrices of `delta_masks`, [1, 1, count * T, T]."""
        tokens = self._tokens
        return self._part(self._masks, 2, first * tokens, (first + count) * tokens)

    def _product(self, x: Value, y: Value, turned: bool = False) -> Value:
        """Products of the matrices of each head."""
        shape = [*x.shape[:3], y.shape[2] if turned else y.shape[3]]
        flags = {"do_relu": "false", "right_transpose": str(turned).lower()}
        return self._file.op("MatMul", [x, y, self._file.none], shape, next(self._names), **flags)

    def _part(self, x: Value, axis: int, start: int, stop: int) -> Value:
        return self._file.slice(x, axis, start, stop, next(self._names))

    def _filled(self, name: str, number: float) -> Value:
        """A weight of a key head's length that holds one number."""
        shape = (1, 1, 1, self._sizes.linear_key_head_dim)
        self._store(name, np.float32, shape, lambda _: [np.full(shape, number, np.float32)])
        return self._file.weight(name, shape)

    def _vector(
        self, name: str, shape: Sequence[int], source: str, made: Callable[[Floats], Floats]
    ) -> Value:
        self._store(name, np.float32, shape, lambda blocks: [made(blocks.vector(source))])
        return self._file.weight(name, shape)

    def _turned(self, x: Value, order: Sequence[int]) -> Value:
        shape = [x.shape[i] for i in order]
        return self._file.op("Permute", [x], shape, next(self._names), order=str(list(order)))

    def _reshaped(self, x: Value, shape: Sequence[int], name: str = "") -> Value:
        return self._file.op("Reshape", [x], shape, name or next(self._names))

    def _one(self, kind: str, x: Value, name: str = "") -> Value:
        return self._file.op(kind, [x], x.shape, name or next(self._names))

    def _two(self, kind: str, x: Value, y: Value, name: str = "") -> Value:
        shape = [max(sizes) for sizes in zip(x.shape, y.shape, strict=True)]
        return self._file.op(kind, [x, y], shape, name or next(self._names))


def _tap(tap: int, kernel: Floats) -> Floats:
    """One tap of a convolution's kernels [width, 1, taps]."""
    return kernel[:, 0, tap]
