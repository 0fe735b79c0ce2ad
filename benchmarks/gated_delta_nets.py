"""What a layer of the gated delta rule costs on the chip, in the ways that the compiler leaves to read several tokens.

    PYTHONPATH=src python benchmarks/gated_delta_nets.py --tokens 1,16,64

Each net is compiled with random weights, INT4 group 64; a layer's time is what a net of two has beyond a net of one.
The ways: `steps` is the chip's kernel for one token, one after the other, which changes the state where it lies;
`chunk` is the rule over all tokens at once in plain products (arXiv 2412.06464, section 3.3); `none` leaves the rule
out, which tells what it costs itself. `full` is a layer of attention after 512 tokens.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.timing import read_profile
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe, compile_net
from bmqwen.emit.mlir import MlirOps, Rows
from bmqwen.emit.mlir_file import MlirFile, Value, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.estimate.representative import RandomBlocks
from bmqwen.hub.known_config import published_config
from bmqwen.model.architecture import block_prefix
from bmqwen.model.config import ModelConfig
from bmqwen.model.ops import Heads
from bmqwen.model.rope import rope_tables
from bmqwen.quant.precision import Precision

CONTEXT = 512
INT4 = Precision("int4", 64, "int4")
MASKED = -1e4


class DeltaOps(MlirOps):
    """Emits layers of Qwen3.5 without embedding and head; the states go in and out as the K/V rows do."""

    way = "steps"
    states: list[Value]

    def begin(self) -> Rows:
        """Declare the inputs that the layers need."""
        f, c, tokens = self.file, self.config, self.shape.tokens
        self.states, self._history = [], {}
        if c.kv_layers:
            positions = f.input("position_ids", [1, tokens], np.int32)
            self._mask = f.input("attention_mask", [1, 1, tokens, self.shape.history + tokens])
            self._masks = {}
            history = [1, self.shape.history or 1, c.num_key_value_heads, c.head_dim]
            self._history = {
                i: (f.input(f"history_k.{i}", history), f.input(f"history_v.{i}", history))
                for i in c.kv_layers
            }
            self._cos, self._sin = (
                f.op("Gather", [table, positions], [1, tokens, 1, c.rotary_dim], name, axis="0 : si32")
                for name, table in zip(("cos", "sin"), self._tables(), strict=True)
            )
        return (f.input("input_states", [1, tokens, c.hidden_size]),)

    def rope(self, heads: Heads[Value]) -> Heads[Value]:
        """Rotate the first elements of each head."""
        query, key = (
            self._rotated(x, name)
            for x, name in ((heads.query, f"q.{heads.layer}"), (heads.key, f"k_cache.{heads.layer}"))
        )
        return replace(heads, query=query, key=key)

    def sigmoid_gate(self, x: Rows, gate: Rows) -> Rows:
        """Emit x * sigmoid(gate)."""
        name = gate[0].name
        return (self._two("Mul", x[0], self._one("Sigmoid", gate[0], f"{name}.sigmoid"), f"{name}.gated"),)

    def short_convolution(self, x: Rows, weight: str, layer: int) -> Rows:
        """Emit a product and a sum for each tap."""
        f, one, tokens = self.file, self.config.linear_sizes, self.shape.tokens
        name, taps = f"{weight}.weight", one.linear_conv_kernel_dim
        past = f.input(f"conv_state.{layer}", [1, taps - 1, one.conv_dim])
        rows = f.concat([past, x[0]], 1, f"conv.{layer}.rows")
        self.states.append(f.slice(rows, 1, tokens, tokens + taps - 1, f"conv_after.{layer}"))
        total: Value | None = None
        for tap in range(taps):
            kernel = self._vector(f"{name}.{tap}", (1, 1, one.conv_dim), name, partial(_tap, tap))
            part = f.slice(rows, 1, tap, tap + tokens, f"conv.{layer}.{tap}.rows")
            part = self._two("Mul", part, kernel, f"conv.{layer}.{tap}")
            total = part if total is None else self._two("Add", total, part, f"conv.{layer}.{tap}.sum")
        assert total is not None
        return (self._one("SiLU", total, f"conv.{layer}.silu"),)

    def gated_delta(self, qkv: Rows, decay: Rows, beta: Rows, a_log: str, dt_bias: str, layer: int) -> Rows:
        """Emit the rule in the way that is timed."""
        f, one, tokens = self.file, self.config.linear_sizes, self.shape.tokens
        heads, dim = one.linear_num_value_heads, one.linear_value_head_dim
        bias = self._vector(dt_bias, (1, 1, heads), dt_bias, lambda v: v)
        rate = self._vector(a_log, (1, 1, heads), a_log, lambda v: -np.exp(v))
        raw = self._one("Softplus", self._two("Add", decay[0], bias, f"raw.{layer}"), f"softplus.{layer}")
        g = self._two("Mul", raw, rate, f"g.{layer}")
        b = self._one("Sigmoid", beta[0], f"beta.{layer}")
        ends = (0, one.key_dim, 2 * one.key_dim, one.conv_dim)
        counts = (one.linear_num_key_heads, one.linear_num_key_heads, heads)
        flat = (
            f.slice(qkv[0], 2, start, stop, f"{name}.{layer}.flat")
            for name, start, stop in zip("qkv", ends, ends[1:], strict=False)
        )
        q, k, v = (
            f.op("Reshape", [part], [1, tokens, count, dim], f"{name}.{layer}")
            for name, part, count in zip("qkv", flat, counts, strict=True)
        )
        if self.way == "none":
            y = v
        else:
            state = f.input(f"delta_state.{layer}", [1, heads, dim, dim])
            y = (self._steps if self.way == "steps" else self._chunk)((q, k, v, g, b), state, layer)
        return (f.op("Reshape", [y], [1, tokens, one.value_dim], f"mixed.{layer}"),)

    def gated_norm(self, x: Rows, gate: Rows, weight: str) -> Rows:
        """Emit the norm by head, then the product with silu."""
        one, shape = self.config.linear_sizes, x[0].shape
        heads = [1, shape[1], one.linear_num_value_heads, one.linear_value_head_dim]
        normed = self._norm(self.file.op("Reshape", [x[0]], heads, f"{weight}.heads"), weight)
        flat = self.file.op("Reshape", [normed], shape, f"{weight}.flat")
        return (self._two("Mul", flat, self._one("SiLU", gate[0], f"{weight}.silu"), f"{weight}.gated"),)

    def _steps(self, parts: tuple[Value, ...], state: Value, layer: int) -> Value:
        """The kernel for one token, for each of them."""
        one, made = self.config.linear_sizes, []
        for token in range(self.shape.tokens):
            own = [
                self.file.slice(x, 1, token, token + 1, f"{n}.{layer}.{token}")
                for n, x in zip("qkvgb", parts, strict=True)
            ]
            made.append(
                self.file.op(
                    "RecurrentGatedDeltaRule",
                    [*own, state],
                    own[2].shape,
                    f"y.{layer}.{token}",
                    num_k_heads=f"{one.linear_num_key_heads} : i64",
                    num_v_heads=f"{one.linear_num_value_heads} : i64",
                    d=f"{one.linear_value_head_dim} : i64",
                    use_qk_l2norm="true",
                    scale=f"{one.linear_key_head_dim**-0.5:.12e} : f64",
                )
            )
        return made[0] if len(made) == 1 else self.file.concat(made, 1, f"y.{layer}")

    def _chunk(self, parts: tuple[Value, ...], state: Value, layer: int) -> Value:
        """All tokens at once: what each has to write is found from (I - A)^-1, A being strictly lower triangular."""
        q, k, v, g, b = parts
        tokens, dim, heads = self.shape.tokens, v.shape[3], v.shape[2]
        place = f"chunk.{layer}"
        names = (f"{place}.{number}" for number in range(1000))

        def product(x: Value, y: Value, turned: bool = False) -> Value:
            shape = [*x.shape[:3], y.shape[2] if turned else y.shape[3]]
            flags = {"do_relu": "false", "right_transpose": str(turned).lower()}
            return self.file.op("MatMul", [x, y, self.file.none], shape, next(names), **flags)

        def two(kind: str, x: Value, y: Value) -> Value:
            return self._two(kind, x, y, next(names))

        def exp(x: Value) -> Value:
            return self._one("Exp", x, next(names))

        def constant(label: str, values: NDArray[np.float64]) -> Value:
            name, array = f"{place}.{label}", values.astype(np.float32)
            self._store(name, np.float32, array.shape, lambda _: [array])
            return self.file.weight(name, array.shape)

        def turn(x: Value, order: tuple[int, ...]) -> Value:
            return self.file.op(
                "Permute", [x], [x.shape[i] for i in order], next(names), order=str(list(order))
            )

        def reshaped(x: Value, shape: list[int]) -> Value:
            return self.file.op("Reshape", [x], shape, next(names))

        unit = constant("unit", np.full((1, 1, 1, dim), dim**-0.5))
        q, k = (self.file.op("RMSNorm", [x, unit], x.shape, next(names), eps="1.0e-08 : f64") for x in (q, k))
        q, k, v = (turn(x, (0, 2, 1, 3)) for x in (q, k, v))
        g, b = (reshaped(turn(x, (0, 2, 1)), [1, heads, tokens, 1]) for x in (g, b))
        whole = np.ones((1, 1, tokens, tokens))
        sums = product(constant("lower", np.tril(whole).repeat(heads, 1)), g)
        between = two("Sub", sums, reshaped(sums, [1, heads, 1, tokens]))
        kept = exp(two("Add", between, constant("mask", np.triu(MASKED * whole, 1))))
        written, wanted = two("Mul", k, b), two("Mul", v, b)
        power = two(
            "Mul", two("Mul", product(written, k, True), kept), constant("strict", -np.tril(whole, -1))
        )
        inverse = two("Add", power, constant("eye", np.eye(tokens)[None, None]))
        for _ in range(math.ceil(math.log2(tokens)) - 1):
            power = product(power, power)
            inverse = two("Add", inverse, product(power, inverse))
        fade = exp(sums)
        recalled = product(product(inverse, two("Mul", written, fade)), state)
        delta = two("Sub", product(inverse, wanted), recalled)
        scale = constant("scale", np.full((1, 1, 1, 1), dim**-0.5))
        seen = two("Mul", two("Mul", product(q, k, True), kept), scale)
        y = two("Add", product(two("Mul", two("Mul", q, fade), scale), state), product(seen, delta))
        last = self.file.slice(sums, 2, tokens - 1, tokens, next(names))
        late = turn(two("Mul", k, exp(two("Sub", last, sums))), (0, 1, 3, 2))
        self.states.append(two("Add", two("Mul", state, exp(last)), product(late, delta)))
        return turn(y, (0, 2, 1, 3))

    def _one(self, kind: str, x: Value, name: str) -> Value:
        return self.file.op(kind, [x], x.shape, name)

    def _two(self, kind: str, x: Value, y: Value, name: str) -> Value:
        return self.file.op(kind, [x, y], [max(sizes) for sizes in zip(x.shape, y.shape, strict=True)], name)

    def _vector(
        self, name: str, shape: tuple[int, ...], source: str, made: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> Value:  # fmt: skip
        self._store(name, np.float32, shape, lambda blocks: [made(blocks.vector(source))])
        return self.file.weight(name, shape)

    def _tables(self) -> list[Value]:
        tables = []
        for name, half in zip(("rope.cos", "rope.sin"), rope_tables(self.config, self.context), strict=True):
            table = np.concatenate([half, half], axis=1)[:, None]
            self._store(name, np.float32, table.shape, partial(_given, table))
            tables.append(self.file.weight(name, table.shape))
        return tables

    def _rotated(self, x: Value, name: str) -> Value:
        size = self.config.rotary_dim
        first = self.file.slice(x, 3, 0, size, f"{name}.first")
        rest = self.file.slice(x, 3, size, x.shape[3], f"{name}.rest")
        mode = '"contiguous_halves"'
        turned = self.file.op(
            "Rope", [first, self._sin, self._cos], first.shape, f"{name}.turned", rope_mode=mode
        )
        return self.file.concat([turned, rest], 3, name)


def _tap(tap: int, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """One tap of a convolution's kernels [width, 1, taps]."""
    return kernel[:, 0, tap]


def _given(table: NDArray[np.float32], _: WeightBlocks) -> list[NDArray[np.float32]]:
    return [table]


def layer_cycles(toolchain: Toolchain, config: ModelConfig, kind: str, way: str, tokens: int) -> int:
    """Compile nets of one and of two layers of a kind; returns the cycles between them."""
    cycles = []
    for count in (1, 2):
        cut = replace(config, num_hidden_layers=count, layer_types=(kind,) * count)
        shape = StepShape(tokens, CONTEXT if cut.kv_layers else 0)
        with tempfile.TemporaryDirectory() as folder:
            mlir, file, weights = (
                Path(folder) / "net.mlir",
                MlirFile("net"),
                WeightFile(Path(folder) / "w.npz"),
            )
            ops = DeltaOps(file, cut, shape, CONTEXT, INT4, weights, RandomBlocks(cut))
            ops.way = way
            x = ops.begin()
            h = ops.rms_norm(x, f"{block_prefix(0)}.input_layernorm")
            for layer in range(count):
                x, mlp = cut.network.emit_block(ops, layer, x, h)
                after = f"{block_prefix(layer + 1)}.input_layernorm" if layer + 1 < count else "model.norm"
                x, h = ops.add_rms_norm(x, mlp, after)
            weights.close()
            for value in (*h, *ops.states, *ops._caches):
                file.output(value)
            mlir.write_text(file.text("w.npz"))
            cycles.append(read_profile(compile_net(toolchain, mlir, Recipe("W4F16")).profile).cycles)
    return cycles[1] - cycles[0]


def main() -> None:
    """Print a table in Markdown, in microseconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="qwen3.5-2b")
    parser.add_argument("--tokens", default="1,16,64")
    options = parser.parse_args()
    config = published_config(options.model)
    if config is None or config.linear is None:
        parser.error(f"{options.model} has no layers of the gated delta rule")
    toolchain = open_toolchain(report=print)
    print("| tokens | full | none | steps | chunk |\n|---|---|---|---|---|")
    for tokens in map(int, options.tokens.split(",")):
        cells = [layer_cycles(toolchain, config, "full_attention", "none", tokens)]
        for way in ("none", "steps", "chunk"):
            skipped = way == "chunk" and tokens == 1
            cells.append(0 if skipped else layer_cycles(toolchain, config, "linear_attention", way, tokens))
        print(
            f"| {tokens} | " + " | ".join(f"{cell / 1000:,.0f}" if cell else "" for cell in cells) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
