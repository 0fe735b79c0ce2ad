"""The fast ONNX dialect: ONNX Runtime's own operations where they are faster than the standard's."""

from dataclasses import dataclass, replace

import numpy as np

from bmqwen.emit.onnx import OnnxOps
from bmqwen.emit.onnx_file import OnnxFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.precision import Precision

MICROSOFT = "com.microsoft"
# MatMulNBits: compute with int8 activations (a scale for each block of a row), the fastest on every x86 and ARM.
INT8_ACTIVATIONS = 4


@dataclass(frozen=True, slots=True)
class FusedHeads:
    """What a GroupQueryAttention will be made of.

    Attributes:
        layer: index of the layer.
        parts: query, key and value [B, C, width]; packed as they are projected: the first holds all, the others are "".
        rotated: whether it rotates them.
    """

    layer: int
    parts: tuple[str, str, str]
    rotated: bool = False


class ContribOps(OnnxOps):
    """Emits MatMulNBits, GroupQueryAttention and SkipSimplifiedLayerNormalization.

    Beyond the common inputs: `seqlens_k` int32 [B], tokens of each sequence after this step minus one;
    `total_sequence_length` int32 [], the most of any. Past and present may be the same memory. With B > 1, C is 1
    unless nothing is cached.
    """

    batch: int | str = "B"

    def __init__(
        self, file: OnnxFile, config: ModelConfig, blocks: WeightBlocks, precision: Precision
    ) -> None:
        super().__init__(file, config, blocks, precision)
        self.lengths = (
            file.input("seqlens_k", np.int32, [self.batch]),
            file.input("total_sequence_length", np.int32, []),
        )
        self.tables = self.rope_tables()

    def add_rms_norm(self, x: str, delta: str, weight: str) -> tuple[str, str]:
        """Emit one operation; its fourth output is the sum."""
        normed, _, _, total = self.file.node(
            "SkipSimplifiedLayerNormalization",
            [x, delta, self.norm_weight(weight)],
            outputs=[f"{weight}.normed", "", "", f"{weight}.sum"],
            domain=MICROSOFT,
            epsilon=self.config.rms_norm_eps,
        )
        return total, normed

    def linear(self, x: str, *weights: str, bias: bool = False) -> str:
        """Emit projections that share an input as one product."""
        names = [f"{w}.weight" for w in weights]
        label, form = "+".join(names), self.precision.of(weights[0])
        if isinstance(form, GridFormat):
            rows, columns = self.blocks.shape(names)
            parts = form.for_matmul_nbits(self.blocks.grids(names, form), rows, columns)
            inputs = [x, *self._grid_weight(label, parts)]
            if bias:
                inputs += ["", self.bias(*weights)]
            return self.file.value(
                "MatMulNBits",
                *inputs,
                domain=MICROSOFT,
                N=rows,
                K=columns,
                bits=form.bits,
                block_size=form.group(columns),
                accuracy_level=INT8_ACTIVATIONS,
            )
        weight = self._single(self._float_weight(label, names, form), form)
        product = self.file.value("FusedMatMul", x, weight, domain=MICROSOFT, transB=1)
        return self.file.value("Add", product, self.bias(*weights)) if bias else product

    def heads(self, qkv: str, layer: int) -> FusedHeads:
        """Leave it to GroupQueryAttention."""
        return FusedHeads(layer, (qkv, "", ""))

    def head_norm(self, heads: FusedHeads, query: str, key: str) -> FusedHeads:
        """Emit the norms, of parts that GroupQueryAttention then takes one by one."""
        if heads.rotated:
            raise NotImplementedError("GroupQueryAttention cannot compute head norms after the rotation")
        c, f = self.config, self.file
        q, k, v = f.node(
            "Split",
            [heads.parts[0], self._ints("qkv_sizes", c.q_size, c.kv_size, c.kv_size)],
            outputs=3,
            axis=-1,
        )
        q, k = (
            f.value("Reshape", self._normed_heads(part, weight), self._ints(f"joined_{width}", 0, -1, width))
            for part, weight, width in ((q, query, c.q_size), (k, key, c.kv_size))
        )
        return replace(heads, parts=(q, k, v))

    def rope(self, heads: FusedHeads) -> FusedHeads:
        """Leave it to GroupQueryAttention."""
        return replace(heads, rotated=True)

    def attend(self, heads: FusedHeads) -> str:
        """Emit GroupQueryAttention, with the rotation inside."""
        layer = heads.layer
        past = self.cache_inputs(layer, "past")
        present = self.cache_outputs(layer, "rows")
        attended = self.file.node(
            "GroupQueryAttention",
            [*heads.parts, *past, *self.lengths, *(self.tables if heads.rotated else ())],
            outputs=[f"attention.{layer}", *present],
            domain=MICROSOFT,
            num_heads=self.config.num_attention_heads,
            kv_num_heads=self.config.num_key_value_heads,
            scale=self.config.head_dim**-0.5,
            do_rotary=int(heads.rotated),
            rotary_interleaved=0,
        )
        return attended[0]

    def short_convolution(self, x: str, weight: str, layer: int) -> str:
        """Emit one operation, with silu inside."""
        past, present = self.state_ends(layer, "conv", self.config.linear_sizes.conv_state)
        return self.file.node(
            "CausalConvWithState",
            [x, self.small(f"{weight}.weight"), "", past],
            outputs=[f"convolved.{layer}", present],
            domain=MICROSOFT,
            activation="silu",
            channels_last=1,
        )[0]

    def gated_delta(self, qkv: str, decay: str, beta: str, a_log: str, dt_bias: str, layer: int) -> str:
        """Emit LinearAttention: GatedDeltaNet does more in one operation, and takes ten times as long on a CPU."""
        f, one = self.file, self.config.linear_sizes
        past, present = self.state_ends(layer, "delta", one.delta_state)
        sizes = self._ints("delta_sizes", one.key_dim, one.key_dim, one.value_dim)
        q, k, v = f.node("Split", [qkv, sizes], outputs=3, axis=-1)
        raw = f.value("Softplus", f.value("Add", decay, self.small(dt_bias)))
        rate = f.constant(f"{a_log}.rate", -np.exp(self.blocks.vector(a_log)))
        return f.node(
            "LinearAttention",
            [*map(self._unit_heads, (q, k)), v, past, f.value("Mul", raw, rate), f.value("Sigmoid", beta)],
            outputs=[f"mixed.{layer}", present],
            domain=MICROSOFT,
            update_rule="gated_delta",
            q_num_heads=one.linear_num_value_heads,
            kv_num_heads=one.linear_num_value_heads,
        )[0]

    def gated_norm(self, x: str, gate: str, weight: str) -> str:
        """Emit the norm in one operation, silu in another."""
        f, one = self.file, self.config.linear_sizes
        heads = f.value("Reshape", x, self._ints("value_heads", 0, 0, -1, one.linear_value_head_dim))
        square = f.value("Pow", heads, f.constant("two", np.array(2, np.float32)))
        normed = f.value("Reshape", self._scaled(heads, square, weight), self._ints("joined_last", 0, 0, -1))
        return f.value("Mul", normed, f.value("QuickGelu", gate, domain=MICROSOFT, alpha=1.0))

    def swiglu(self, gate_up: str) -> str:
        """Emit QuickGelu: with alpha 1 it is SiLU in one operation."""
        gate, up = self.file.node("Split", [gate_up], outputs=2, axis=-1, num_outputs=2)
        return self.file.value("Mul", self.file.value("QuickGelu", gate, domain=MICROSOFT, alpha=1.0), up)

    def _unit_heads(self, x: str) -> str:
        """Vectors of length 1, for each value head the one of its key head: [B, C, value heads * key_head_dim]."""
        f, one = self.file, self.config.linear_sizes
        dim, group = one.linear_key_head_dim, one.linear_num_value_heads // one.linear_num_key_heads
        heads = f.value("Reshape", x, self._ints("key_heads", 0, 0, -1, dim))
        square = f.value("Pow", heads, f.constant("two", np.array(2, np.float32)))
        # x / sqrt(sum + 1e-6), written as a norm, which ONNX Runtime recognises.
        mean = f.value("ReduceMean", square, self._ints("last_axis", -1), keepdims=1)
        shifted = f.value("Add", mean, f.constant("unit_eps", np.array(1e-6 / dim, np.float32)))
        scaled = f.value("Div", heads, f.value("Sqrt", shifted))
        unit = f.value("Mul", scaled, f.constant("unit_scale", np.full(dim, dim**-0.5, np.float32)))
        if group > 1:
            alone = f.value("Reshape", unit, self._ints("alone", 0, 0, -1, 1, dim))
            unit = f.value("Tile", alone, self._ints("delta_repeats", 1, 1, 1, group, 1))
        return f.value(
            "Reshape", unit, self._ints(f"joined_{group * one.key_dim}", 0, 0, group * one.key_dim)
        )

    def _normed_heads(self, x: str, weight: str) -> str:
        """RMS norm over each head of [B, C, width]: [B, C, heads, head_dim]."""
        f = self.file
        heads = f.value("Reshape", x, self._ints("split_heads", 0, 0, -1, self.config.head_dim))
        # With Pow, ONNX Runtime recognises the norm and makes one operation of it.
        square = f.value("Pow", heads, f.constant("two", np.array(2, np.float32)))
        return self._scaled(heads, square, weight)
