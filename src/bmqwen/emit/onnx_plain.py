"""The portable ONNX dialect: operations of the ONNX standard only, for other tools."""

from dataclasses import replace

import numpy as np

from bmqwen.emit.onnx import OnnxOps
from bmqwen.emit.onnx_file import OnnxFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.model.ops import Heads
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.precision import Precision


class PlainOps(OnnxOps):
    """Emits standard operations. Beyond the common inputs: `position_ids` int64 [1, C], the absolute positions."""

    def __init__(
        self, file: OnnxFile, config: ModelConfig, blocks: WeightBlocks, precision: Precision
    ) -> None:
        super().__init__(file, config, blocks, precision)
        positions = file.input("position_ids", np.int64, [1, "C"])
        # [1, C, head_dim / 2] -> [1, 1, C, head_dim / 2], to broadcast over heads
        head_axis = self._ints("head_axis", 1)
        self.cos, self.sin = (
            file.value("Unsqueeze", file.value("Gather", table, positions, axis=0), head_axis)
            for table in self.rope_tables()
        )
        # [1, C] -> [1, 1, 1, C, 1]: the query's position, to compare with each key's
        self.query_positions = file.value("Unsqueeze", positions, self._ints("position_axes", 1, 2, 4))

    def add_rms_norm(self, x: str, delta: str, weight: str) -> tuple[str, str]:
        """Emit the sum, then the norm."""
        total = self.file.value("Add", x, delta)
        return total, self.rms_norm(total, weight)

    def linear(self, x: str, *weights: str, bias: bool = False) -> str:
        """Emit one product of the stacked weights, dequantised in the graph where they are quantised."""
        names = [f"{w}.weight" for w in weights]
        transposed = self.file.value("Transpose", self._weight(weights[0], names), perm=[1, 0])
        product = self.file.value("MatMul", x, transposed)
        return self.file.value("Add", product, self.bias(*weights)) if bias else product

    def heads(self, qkv: str, layer: int) -> Heads[str]:
        """Split into parts [1, heads, C, head_dim]."""
        f, c = self.file, self.config
        heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        sizes = self._ints("qkv_sizes", heads * dim, kv_heads * dim, kv_heads * dim)
        parts = (
            f.value(
                "Transpose",
                f.value("Reshape", part, self._ints(f"heads_{n}", 1, -1, n, dim)),
                perm=[0, 2, 1, 3],
            )
            for part, n in zip(
                f.node("Split", [qkv, sizes], outputs=3, axis=-1), (heads, kv_heads, kv_heads), strict=True
            )
        )
        return Heads(layer, *parts)

    def head_norm(self, heads: Heads[str], query: str, key: str) -> Heads[str]:
        """Compute it as any norm: over the last axis."""
        return replace(heads, query=self.rms_norm(heads.query, query), key=self.rms_norm(heads.key, key))

    def rope(self, heads: Heads[str]) -> Heads[str]:
        """Rotate with halves paired."""
        return replace(heads, query=self._rotate(heads.query), key=self._rotate(heads.key))

    def attend(self, heads: Heads[str]) -> str:
        """Emit attention in grouped form: queries [1, kv_heads, heads / kv_heads, C, head_dim]."""
        f, c, layer = self.file, self.config, heads.layer
        query_heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        past_key, past_value = self.cache_inputs(layer, "past")
        present_key, present_value = self.cache_outputs(layer, "rows")
        f.node("Concat", [past_key, heads.key], outputs=[present_key], axis=2)
        f.node("Concat", [past_value, heads.value], outputs=[present_value], axis=2)

        group_axis = self._ints("group_axis", 2)
        grouped = f.value(
            "Reshape", heads.query, self._ints("grouped", 1, kv_heads, query_heads // kv_heads, -1, dim)
        )
        scale = f.constant("attention_scale", np.array(dim**-0.5, np.float32))
        keys = f.value("Unsqueeze", f.value("Transpose", present_key, perm=[0, 1, 3, 2]), group_axis)
        scores = f.value("Mul", f.value("MatMul", grouped, keys), scale)
        probabilities = f.value("Softmax", self._masked(scores, present_key), axis=-1)
        mixed = f.value("MatMul", probabilities, f.value("Unsqueeze", present_value, group_axis))
        by_head = f.value("Reshape", mixed, self._ints("ungrouped", 1, query_heads, -1, dim))
        return f.value(
            "Reshape",
            f.value("Transpose", by_head, perm=[0, 2, 1, 3]),
            self._ints("joined", 1, -1, c.q_size),
        )

    def short_convolution(self, x: str, weight: str, layer: int) -> str:
        """Emit Conv over the state's rows and the step's."""
        f, one = self.file, self.config.linear_sizes
        past, present = self.state_ends(layer, "conv", one.conv_state)
        rows = f.value("Concat", past, x, axis=1)
        end = f.constant("end", np.array([np.iinfo(np.int64).max], np.int64))
        last = self._ints("last_rows", 1 - one.linear_conv_kernel_dim)
        f.node("Slice", [rows, last, end, f.constant("row_axis", np.array([1], np.int64))], outputs=[present])
        columns = f.value("Transpose", rows, perm=[0, 2, 1])
        made = f.value("Conv", columns, self.small(f"{weight}.weight"), group=one.conv_dim)
        y = f.value("Transpose", made, perm=[0, 2, 1])
        return f.value("Mul", y, f.value("Sigmoid", y))

    def gated_delta(self, qkv: str, decay: str, beta: str, a_log: str, dt_bias: str, layer: int) -> str:
        """Emit Scan over the tokens: the state is [value heads, value_dim, key_dim]."""
        f, one = self.file, self.config.linear_sizes
        matrix = (one.linear_num_value_heads, one.linear_value_head_dim, one.linear_key_head_dim)
        past, present = self.state_ends(layer, "delta", matrix)
        heads, group = one.linear_num_value_heads, one.linear_num_value_heads // one.linear_num_key_heads
        sizes = self._ints("delta_sizes", one.key_dim, one.key_dim, one.value_dim)
        q, k, v = (
            f.value("Reshape", part, self._ints(f"by_head_{dim}", -1, count, 1, dim))
            for part, count, dim in zip(
                f.node("Split", [qkv, sizes], outputs=3, axis=-1),
                (one.linear_num_key_heads, one.linear_num_key_heads, heads),
                (one.linear_key_head_dim, one.linear_key_head_dim, one.linear_value_head_dim),
                strict=True,
            )
        )
        repeated = self._ints("delta_repeats", 1, 1, group, 1)
        shape = self._ints("delta_rows", -1, heads, 1, one.linear_key_head_dim)
        eps = f.constant("unit_eps", np.array(1e-6, np.float32))
        q, k = (
            f.value("Reshape", f.value("Tile", self._unit(part, eps), repeated), shape) for part in (q, k)
        )
        scale = f.constant("delta_scale", np.array(one.linear_key_head_dim**-0.5, np.float32))
        raw = f.value("Softplus", f.value("Add", decay, self.small(dt_bias)))
        kept = f.value("Exp", f.value("Neg", f.value("Mul", f.value("Exp", self.small(a_log)), raw)))
        column = self._ints("delta_column", -1, heads, 1, 1)
        values = self._ints("delta_values", -1, heads, one.linear_value_head_dim, 1)
        state, y = f.scan(
            "gated_delta",
            {"state": (f.value("Squeeze", past, self._ints("first_axis", 0)), matrix)},
            {
                "q": (f.value("Mul", q, scale), (heads, 1, one.linear_key_head_dim)),
                "k": (k, (heads, 1, one.linear_key_head_dim)),
                "v": (f.value("Reshape", v, values), (heads, one.linear_value_head_dim, 1)),
                "kept": (f.value("Reshape", kept, column), (heads, 1, 1)),
                "rate": (f.value("Reshape", f.value("Sigmoid", beta), column), (heads, 1, 1)),
            },
            [
                ("Mul", ["state", "kept"], "faded"),
                ("Transpose", ["k"], "k_column"),
                ("MatMul", ["faded", "k_column"], "recalled"),
                ("Sub", ["v", "recalled"], "missing"),
                ("Mul", ["missing", "rate"], "delta"),
                ("MatMul", ["delta", "k"], "written"),
                ("Add", ["faded", "written"], "state_after"),
                ("Transpose", ["q"], "q_column"),
                ("MatMul", ["state_after", "q_column"], "y"),
            ],
            (heads, one.linear_value_head_dim, 1),
        )
        f.node("Unsqueeze", [state, self._ints("first_axis", 0)], outputs=[present])
        return f.value("Reshape", y, self._ints(f"joined_{one.value_dim}", 1, -1, one.value_dim))

    def gated_norm(self, x: str, gate: str, weight: str) -> str:
        """Compute it as any norm, by head."""
        f, one = self.file, self.config.linear_sizes
        heads = f.value("Reshape", x, self._ints("value_heads", 1, 0, -1, one.linear_value_head_dim))
        joined = self._ints(f"joined_{one.value_dim}", 1, -1, one.value_dim)
        normed = f.value("Reshape", self.rms_norm(heads, weight), joined)
        return f.value("Mul", normed, f.value("Mul", gate, f.value("Sigmoid", gate)))

    def swiglu(self, gate_up: str) -> str:
        """Emit silu(gate) * up."""
        gate, up = self.file.node("Split", [gate_up], outputs=2, axis=-1, num_outputs=2)
        return self.file.value("Mul", self.file.value("Mul", gate, self.file.value("Sigmoid", gate)), up)

    def _rotate(self, x: str) -> str:
        """Rotary embedding of [1, heads, C, head_dim], halves paired."""
        f, c = self.file, self.config
        half, rest = c.rotary_dim // 2, c.head_dim - c.rotary_dim
        sizes = self._ints("rotated_sizes", half, half, *([rest] if rest else []))
        a, b, *kept = f.node("Split", [x, sizes], outputs=3 if rest else 2, axis=-1)
        first = f.value("Sub", f.value("Mul", a, self.cos), f.value("Mul", b, self.sin))
        second = f.value("Add", f.value("Mul", b, self.cos), f.value("Mul", a, self.sin))
        return f.value("Concat", first, second, *kept, axis=-1)

    def _unit(self, x: str, eps: str) -> str:
        """Vectors of length 1, along the last axis."""
        f = self.file
        square = f.value("ReduceSum", f.value("Mul", x, x), self._ints("last_axis", -1), keepdims=1)
        return f.value("Div", x, f.value("Sqrt", f.value("Add", square, eps)))

    def _masked(self, scores: str, keys: str) -> str:
        """Scores [..., C, rows] with keys after the query closed."""
        f = self.file
        zero, one = (f.constant(f"int_{i}", np.array(i, np.int64)) for i in (0, 1))
        rows = f.value("Squeeze", f.value("Shape", keys, start=2, end=3))
        visible = f.value("LessOrEqual", f.value("Range", zero, rows, one), self.query_positions)
        return f.value(
            "Where", visible, scores, f.constant("closed", np.array(np.finfo(np.float32).min, np.float32))
        )

    def _weight(self, weight: str, names: list[str]) -> str:
        """The stacked matrix [N, K] as float32."""
        form, label, shape = self.precision.of(weight), "+".join(names), self.blocks.shape(names)
        if not isinstance(form, GridFormat):
            return self._single(self._float_weight(label, names, form), form)
        parts = form.for_dequantize_linear(self.blocks.grids(names, form), *shape)
        return self.file.value(
            "DequantizeLinear", *self._grid_weight(label, parts), axis=1, block_size=form.group(shape[1])
        )
