"""Qwen3, the dense models: a norm of each query and key head before the rotation, and no biases."""

from typing import TypeVar

from bmqwen.model.architecture import Architecture, Tensor
from bmqwen.model.ops import Ops

T = TypeVar("T")
H = TypeVar("H")


class Qwen3(Architecture):
    """arXiv 2505.09388, section 2. A head's size is no function of the hidden size."""

    class_name = "Qwen3ForCausalLM"
    model_type = "qwen3"
    unsupported = ("attention_bias", "use_sliding_window", "mlp_bias")
    stated_switches = ("attention_bias", "use_sliding_window")
    default_head_dim = 128

    def sampling(self) -> dict[str, float]:
        """Return what the generation_config.json files of Qwen3 say."""
        return {"temperature": 0.6, "top_p": 0.95, "top_k": 20}

    def attention_tensors(self) -> list[Tensor]:
        """List four projections and two norms that all heads share."""
        shape = (self.config.head_dim,)
        return [
            *super().attention_tensors(),
            Tensor("self_attn.q_norm.weight", "attn_q_norm.weight", shape),
            Tensor("self_attn.k_norm.weight", "attn_k_norm.weight", shape),
        ]

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit projections, head norms, rotation, attention."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        heads = ops.head_norm(ops.heads(qkv, layer), f"{place}.q_norm", f"{place}.k_norm")
        return ops.linear(ops.attend(ops.rope(heads)), f"{place}.o_proj")
