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

    def swiglu(self, gate_up: str) -> str:
        """Emit silu(gate) * up."""
        gate, up = self.file.node("Split", [gate_up], outputs=2, axis=-1, num_outputs=2)
        return self.file.value("Mul", self.file.value("Mul", gate, self.file.value("Sigmoid", gate)), up)

    def _rotate(self, x: str) -> str:
        """Rotary embedding of [1, heads, C, head_dim], halves paired."""
        f = self.file
        a, b = f.node("Split", [x], outputs=2, axis=-1, num_outputs=2)
        first = f.value("Sub", f.value("Mul", a, self.cos), f.value("Mul", b, self.sin))
        second = f.value("Add", f.value("Mul", b, self.cos), f.value("Mul", a, self.sin))
        return f.value("Concat", first, second, axis=-1)

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
