"""What both ONNX dialects have in common: embedding, norms, the graph's ends."""

from collections.abc import Sequence

import numpy as np

from bmqwen.emit.onnx_file import OnnxFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.model.rope import rope_tables
from bmqwen.quant.formats import FloatFormat, Part
from bmqwen.quant.precision import Precision

# TensorProto.DataType; fixed by the ONNX standard.
FLOAT = 1
ONNX_TYPES = {"float32": FLOAT, "uint8": 2, "float16": 10, "uint4": 21}


class OnnxOps:
    """Common half of the two emitters. Values are names of float32 tensors [B, C, width].

    Inputs of every graph: `input_ids` int64 [B, C]; `logits_from` int64 [1], the first of the C rows whose logits are
    wanted (C - 1: only the last); `past_key_values.N.key` and `.value` float32 [B, kv_heads, past, head_dim].
    Layers of the delta rule have in its place `past_state.N.conv` [B, kernel - 1, width] and `past_state.N.delta`.
    Outputs: `logits` float32 [B, C - logits_from, vocab], or without a head `last_hidden_state`, of hidden_size
    numbers; `present.N.key` and `.value`, the cache with the C new rows.

    Attributes:
        batch: B, how many sequences there are; a name: any number.
    """

    batch: int | str = 1

    def __init__(
        self, file: OnnxFile, config: ModelConfig, blocks: WeightBlocks, precision: Precision
    ) -> None:
        self.file, self.config, self.blocks, self.precision = file, config, blocks, precision
        self.input_ids = file.input("input_ids", np.int64, [self.batch, "C"])

    def embed(self, weight: str) -> str:
        """Emit the look-up in the table, which is kept in half precision unless the head is float32."""
        form, name = self.precision.table, f"{weight}.weight"
        table = self._float_weight(f"{name}.table", [name], form)
        return self._single(self.file.value("Gather", table, self.input_ids, axis=0), form)

    def rms_norm(self, x: str, weight: str) -> str:
        """Emit RMS norm in standard operations."""
        return self._scaled(x, self.file.value("Mul", x, x), weight)

    def _float_weight(self, label: str, names: list[str], form: FloatFormat) -> str:
        """Stacked matrices [N, K] in a float format."""
        kind = ONNX_TYPES[np.dtype(form.dtype).name]
        return self.file.weight(label, kind, self.blocks.shape(names), self.blocks.floats(names, form.dtype))

    def _single(self, x: str, form: FloatFormat) -> str:
        """Values of a float format as float32."""
        return x if form.dtype is np.float32 else self.file.value("Cast", x, to=FLOAT)

    def _grid_weight(self, label: str, parts: list[Part]) -> list[str]:
        """The parts of packed matrices."""
        return [
            self.file.weight(f"{label}.{part.name}", ONNX_TYPES[part.type], part.shape, part.blocks)
            for part in parts
        ]

    def _scaled(self, x: str, square: str, weight: str) -> str:
        """RMS norm, given the square of `x`."""
        f = self.file
        eps = f.constant("rms_norm_eps", np.array(self.config.rms_norm_eps, np.float32))
        mean = f.value("ReduceMean", square, self._ints("last_axis", -1), keepdims=1)
        scaled = f.value("Div", x, f.value("Sqrt", f.value("Add", mean, eps)))
        return f.value("Mul", scaled, self.norm_weight(weight))

    def norm_weight(self, weight: str) -> str:
        """Declare the norm's weight as a constant [hidden]."""
        return self.file.constant(f"{weight}.weight", self.blocks.vector(f"{weight}.weight"))

    def bias(self, *weights: str) -> str:
        """Declare the biases of projections, joined, as a constant [sum of widths]."""
        name = "+".join(f"{w}.bias" for w in weights)
        return self.file.constant(name, self.blocks.vector(*(f"{w}.bias" for w in weights)))

    def last_layer_rows(self, x: str, attended: str) -> tuple[str, str]:
        """Take the rows from `logits_from` on: of a prompt's others the last layer has its keys and values only."""
        f = self.file
        start = f.input("logits_from", np.int64, [1])
        end = f.constant("end", np.array([np.iinfo(np.int64).max], np.int64))
        axis = f.constant("row_axis", np.array([1], np.int64))
        return f.value("Slice", x, start, end, axis), f.value("Slice", attended, start, end, axis)

    def wanted_rows(self, x: str) -> str:
        """Leave them: they were taken in the last layer."""
        return x

    def linear(self, x: str, *weights: str, bias: bool = False) -> str:
        """Compute x @ W^T (+ b) for each weight, side by side; each dialect has its own way."""
        raise NotImplementedError

    def hidden(self, x: str) -> str:
        """Make the rows the graph's output."""
        self.file.node("Identity", [x], outputs=["last_hidden_state"])
        return self.file.output(
            "last_hidden_state", np.float32, [self.batch, "rows_wanted", self.config.width]
        )

    def logits(self, x: str, weight: str) -> str:
        """Emit the head's product, as the graph's output."""
        self.file.node("Identity", [self.linear(x, weight)], outputs=["logits"])
        return self.file.output("logits", np.float32, [self.batch, "rows_wanted", self.config.vocab_size])

    def cache_inputs(self, layer: int, past: str) -> tuple[str, str]:
        """Declare a layer's past keys and values, with `past` rows."""
        shape: list[int | str] = [self.batch, self.config.num_key_value_heads, past, self.config.head_dim]
        key, value = (
            self.file.input(f"past_key_values.{layer}.{part}", np.float32, shape) for part in ("key", "value")
        )
        return key, value

    def cache_outputs(self, layer: int, rows: str) -> tuple[str, str]:
        """Declare a layer's present keys and values, with `rows` rows."""
        shape: list[int | str] = [self.batch, self.config.num_key_value_heads, rows, self.config.head_dim]
        key, value = (
            self.file.output(f"present.{layer}.{part}", np.float32, shape) for part in ("key", "value")
        )
        return key, value

    def state_ends(self, layer: int, part: str, shape: Sequence[int]) -> tuple[str, str]:
        """Declare a layer's state before and after the step, and return both names."""
        sizes = [self.batch, *shape]
        return (
            self.file.input(f"past_state.{layer}.{part}", np.float32, sizes),
            self.file.output(f"present.{layer}.{part}", np.float32, sizes),
        )

    def small(self, name: str) -> str:
        """Declare a small tensor of the checkpoint as a constant."""
        return self.file.constant(name, self.blocks.vector(name))

    def sigmoid_gate(self, x: str, gate: str) -> str:
        """Emit it in standard operations."""
        return self.file.value("Mul", x, self.file.value("Sigmoid", gate))

    def rope_tables(self) -> tuple[str, str]:
        """Store cosines and sines of all positions, float32 [max_position_embeddings, rotary_dim / 2]."""
        cos, sin = rope_tables(self.config, self.config.max_position_embeddings)
        return (
            self.file.weight("rope.cos", FLOAT, cos.shape, [cos]),
            self.file.weight("rope.sin", FLOAT, sin.shape, [sin]),
        )

    def _ints(self, name: str, *values: int) -> str:
        return self.file.constant(name, np.array(values, np.int64))
