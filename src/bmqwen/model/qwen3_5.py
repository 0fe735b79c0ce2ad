"""Qwen3.5, its text: three layers of the gated delta rule for each one of gated full attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.architecture import Architecture, Tensor, block_prefix, sizes
from bmqwen.model.config import ConfigValues, LinearAttention, ModelConfig
from bmqwen.model.ops import Ops

T = TypeVar("T")
H = TypeVar("H")

_FULL, _LINEAR = "full_attention", "linear_attention"
_WIDEST_SMALL = 2048  # hidden_size of Qwen3.5-2B
# What config.json says of the three axes of pictures: they are one axis in a text.
_PICTURES = {"mrope_section", "mrope_interleaved"}


def _text(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, value_heads: int
) -> Mapping[str, object]:
    return sizes(
        hidden, inner, layers, heads, kv_heads,
        vocab_size=248_320, rope_theta=1e7, max_position_embeddings=262_144, tie_word_embeddings=True,
        linear_num_value_heads=value_heads, partial_rotary_factor=0.25,
    )  # fmt: skip


class Qwen35(Architecture):
    """Gated Delta Networks (arXiv 2412.06464) beside attention whose output is gated; pictures are left aside."""

    class_name = "Qwen3_5ForCausalLM"
    model_type = "qwen3_5_text"
    gguf_name = "qwen35"
    with_pictures = ("Qwen3_5ForConditionalGeneration", "qwen3_5")
    unsupported = ("attention_bias", "use_sliding_window", "mlp_bias")
    stated_switches = ("attention_bias",)
    default_head_dim = 256
    left_aside = ("model.visual.", "visual.", "mtp.")
    gguf_keys: ClassVar[Mapping[str, str]] = {
        "linear_num_key_heads": "ssm.group_count",
        "linear_num_value_heads": "ssm.time_step_rank",
        "linear_key_head_dim": "ssm.state_size",
        "linear_value_dim": "ssm.inner_size",
        "linear_conv_kernel_dim": "ssm.conv_kernel",
        "full_attention_interval": "full_attention_interval",
        "mtp_num_hidden_layers": "nextn_predict_layers",
        "rotary_dim": "rope.dimension_count",
    }
    published: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "Qwen/Qwen3.5-0.8B": _text(1024, 3584, 24, 8, 2, 16),
        "Qwen/Qwen3.5-2B": _text(2048, 6144, 24, 8, 2, 16),
        "Qwen/Qwen3.5-4B": _text(2560, 9216, 32, 16, 4, 32),
    }

    @classmethod
    def read(cls, values: ConfigValues) -> ModelConfig:
        """Read the configuration, the kinds of layers and the share of a head that is rotated included."""
        own: dict[str, Any] = dict(values.values)
        if own.pop("attn_output_gate", True) is not True:
            raise values.error("attn_output_gate", "which is unsupported; only true is supported")
        share: object = own.pop("partial_rotary_factor", None)
        if isinstance(rope := own.get("rope_parameters"), dict):
            share = rope.get("partial_rotary_factor", share)
            own["rope_parameters"] = {
                key: value for key, value in rope.items() if key not in _PICTURES | {"partial_rotary_factor"}
            }
        kinds, every = own.pop("layer_types", None), values.integer("full_attention_interval", 512, 4)
        config = super().read(ConfigValues(own, values.source))
        layers = range(config.num_hidden_layers)
        regular = [_LINEAR if (layer + 1) % every else _FULL for layer in layers]
        kinds = regular if kinds is None else kinds
        known = isinstance(kinds, list) and all(kind in (_FULL, _LINEAR) for kind in kinds)
        if not known or len(kinds) != len(layers):
            raise values.error(
                "layer_types", f"but it must be a list of {len(layers)}, each {_FULL} or {_LINEAR}"
            )
        linear = LinearAttention(
            values.integer("linear_num_key_heads", 1024, 16),
            values.integer("linear_num_value_heads", 1024, 32),
            values.integer("linear_key_head_dim", 1024, 128),
            values.integer("linear_value_head_dim", 1024, 128),
            values.integer("linear_conv_kernel_dim", 64, 4),
        )
        if linear.linear_num_value_heads % linear.linear_num_key_heads:
            raise values.error("linear_num_value_heads", "but it must be a multiple of linear_num_key_heads")
        share = 0.25 if share is None else share
        if not isinstance(share, (int, float)) or not 0 < share <= 1 or int(config.head_dim * share) % 2:
            raise values.error(
                "partial_rotary_factor", "but it must make an even number of a head's elements"
            )
        return replace(config, layer_types=tuple(kinds), linear=linear, partial_rotary_factor=float(share))

    def sampling(self, *, thinks: bool) -> dict[str, float]:
        """Return what the cards of Qwen3.5 recommend for texts: its models have no generation_config.json."""
        if thinks:
            return {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "presence_penalty": 1.5}
        if self.config.hidden_size <= _WIDEST_SMALL:
            return {"temperature": 1.0, "top_p": 1.0, "top_k": 20, "presence_penalty": 2.0}
        return super().sampling(thinks=thinks) | {"presence_penalty": 1.5}

    @classmethod
    def gguf_values(cls, values: dict[str, object]) -> dict[str, object]:
        """Return config.json's values of those of GGUF, which states the width of all heads together, and counts blocks
        that predict further tokens among the layers.
        """

        def whole(key: str, least: int = 1) -> int:
            value = values.get(key)
            return value if isinstance(value, int) and least <= value < 1 << 24 else least

        return values | {
            "linear_value_head_dim": whole("linear_value_dim") // whole("linear_num_value_heads"),
            "num_hidden_layers": whole("num_hidden_layers") - whole("mtp_num_hidden_layers", 0),
            "partial_rotary_factor": whole("rotary_dim") / whole("head_dim"),
        }

    def attention_tensors(self, layer: int) -> list[Tensor]:
        """List those of a layer, by its kind. Norms are stored less one; q_proj has queries and gates by head."""
        c = self.config
        if c.is_full(layer):
            q, k, v, o = super().attention_tensors(layer)
            stored = "self_attn.q_proj.weight"
            norm = (c.head_dim,)
            return [
                q._replace(half=0),
                Tensor("self_attn.gate_proj.weight", q.gguf, q.shape, stored, half=1),
                k, v, o,
                Tensor("self_attn.q_norm.weight", "attn_q_norm.weight", norm, plus=1.0),
                Tensor("self_attn.k_norm.weight", "attn_k_norm.weight", norm, plus=1.0),
            ]  # fmt: skip
        one = c.linear_sizes
        heads = one.linear_num_value_heads
        parts = (
            ("in_proj_qkv.weight", "attn_qkv.weight", (one.conv_dim, c.hidden_size)),
            ("in_proj_z.weight", "attn_gate.weight", (one.value_dim, c.hidden_size)),
            ("in_proj_b.weight", "ssm_beta.weight", (heads, c.hidden_size)),
            ("in_proj_a.weight", "ssm_alpha.weight", (heads, c.hidden_size)),
            ("conv1d.weight", "ssm_conv1d.weight", (one.conv_dim, 1, one.linear_conv_kernel_dim)),
            ("A_log", "ssm_a", (heads,)),
            ("dt_bias", "ssm_dt.bias", (heads,)),
            ("norm.weight", "ssm_norm.weight", (one.linear_value_head_dim,)),
            ("out_proj.weight", "ssm_out.weight", (c.hidden_size, one.value_dim)),
        )
        return [
            Tensor(f"linear_attn.{name}", gguf, shape, negated_exp=name == "A_log")
            for name, gguf, shape in parts
        ]

    def layer_tensors(self, layer: int) -> list[Tensor]:
        """List the tensors of a decoder layer; GGUF has a name of its own for the second norm."""
        return [
            tensor._replace(gguf=tensor.gguf.replace("ffn_norm", "post_attention_norm"))
            for tensor in super().layer_tensors(layer)
        ]

    def gguf_order(self, tensor: Tensor) -> tuple[int, NDArray[np.intp]] | None:
        """Return where a half of q_proj is, and where value heads are: those of one key head lie together here, but
        llama.cpp has the first ones of all key heads, then the second ones.
        """
        c = self.config
        if tensor.half is not None:
            rows = np.arange(2 * tensor.shape[0]).reshape(-1, 2, c.head_dim)
            return 0, rows[:, tensor.half].reshape(-1)
        place = tensor.name.rpartition("linear_attn.")[2]
        one = c.linear_sizes
        if place == tensor.name or place == "norm.weight":
            return None
        keys, values = one.linear_num_key_heads, one.linear_num_value_heads
        wide = (
            1
            if place.startswith(("in_proj_a", "in_proj_b", "A_log", "dt_bias"))
            else one.linear_value_head_dim
        )
        order = np.arange(values * wide).reshape(values // keys, keys, wide).swapaxes(0, 1).reshape(-1)
        if place.startswith(("in_proj_qkv", "conv1d")):
            order = np.concatenate([np.arange(2 * one.key_dim), 2 * one.key_dim + order])
        return int(place.startswith("out_proj")), order

    def tensors(self) -> list[Tensor]:
        """List all tensors; the norms of the residual stream are stored less one."""
        stored_less = ("layernorm.weight", "model.norm.weight")
        return [
            tensor._replace(plus=1.0) if tensor.name.endswith(stored_less) else tensor
            for tensor in super().tensors()
        ]

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit a layer of its kind."""
        if self.config.is_full(layer):
            return self._gated_attention(ops, h, layer, place)
        return self._gated_delta(ops, h, layer, f"{block_prefix(layer)}.linear_attn")

    def _gated_attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit attention whose output a sigmoid of the input scales."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        gate = ops.linear(h, f"{place}.gate_proj")
        heads = ops.head_norm(ops.heads(qkv, layer), f"{place}.q_norm", f"{place}.k_norm")
        return ops.linear(ops.sigmoid_gate(ops.attend(ops.rope(heads)), gate), f"{place}.o_proj")

    def _gated_delta(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit short convolution, gated delta rule, gated norm."""
        qkv = ops.short_convolution(ops.linear(h, f"{place}.in_proj_qkv"), f"{place}.conv1d", layer)
        beta, decay = ops.linear(h, f"{place}.in_proj_b"), ops.linear(h, f"{place}.in_proj_a")
        mixed = ops.gated_delta(qkv, decay, beta, f"{place}.A_log", f"{place}.dt_bias", layer)
        normed = ops.gated_norm(mixed, ops.linear(h, f"{place}.in_proj_z"), f"{place}.norm")
        return ops.linear(normed, f"{place}.out_proj")
