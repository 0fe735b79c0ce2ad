"""Qwen3, the dense models: a norm of each query and key head before the rotation, and no biases."""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from bmqwen.model.architecture import Architecture, Tensor, sizes
from bmqwen.model.ops import Ops

T = TypeVar("T")
H = TypeVar("H")

_4B = sizes(2560, 9728, 36, 32, 8, tie_word_embeddings=True, max_position_embeddings=40_960)
_8B = sizes(4096, 12288, 36, 32, 8, max_position_embeddings=40_960)
_RETRIEVAL = sizes(1024, 3072, 28, 16, 8, tie_word_embeddings=True, vocab_size=151_669)
_2507 = {"rope_theta": 5e6, "max_position_embeddings": 262_144}


class Qwen3(Architecture):
    """arXiv 2505.09388, section 2. A head's size is no function of the hidden size."""

    class_name = "Qwen3ForCausalLM"
    headless_name = "Qwen3Model"
    model_type = "qwen3"
    gguf_name = "qwen3"
    unsupported = ("attention_bias", "use_sliding_window", "mlp_bias")
    stated_switches = ("attention_bias", "use_sliding_window")
    default_head_dim = 128

    published: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "Qwen/Qwen3-0.6B": sizes(
            1024, 3072, 28, 16, 8, tie_word_embeddings=True, max_position_embeddings=40_960
        ),
        "Qwen/Qwen3-1.7B": sizes(
            2048, 6144, 28, 16, 8, tie_word_embeddings=True, max_position_embeddings=40_960
        ),
        "Qwen/Qwen3-4B": _4B,
        "Qwen/Qwen3-8B": _8B,
        "Qwen/Qwen3-14B": sizes(5120, 17408, 40, 40, 8, max_position_embeddings=40_960),
        "Qwen/Qwen3-Embedding-0.6B": {**_RETRIEVAL, "architectures": ["Qwen3Model"]},
        "Qwen/Qwen3-Reranker-0.6B": {**_RETRIEVAL, "max_position_embeddings": 40_960},
        "Qwen/Qwen3-4B-Instruct-2507": {**_4B, **_2507},
        "Qwen/Qwen3-4B-Thinking-2507": {**_4B, **_2507},
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": {
            **_8B,
            "max_position_embeddings": 131_072,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
        },
    }

    def sampling(self, *, thinks: bool) -> dict[str, float]:
        """Return what the generation_config.json files of Qwen3 and its 2507 releases say, and the cards of Qwen3 for
        enable_thinking = False ("best practices").
        """
        if thinks:
            return {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
        return super().sampling(thinks=thinks)

    def attention_tensors(self, layer: int) -> list[Tensor]:
        """List four projections and two norms that all heads share."""
        shape = (self.config.head_dim,)
        return [
            *super().attention_tensors(layer),
            Tensor("self_attn.q_norm.weight", "attn_q_norm.weight", shape),
            Tensor("self_attn.k_norm.weight", "attn_k_norm.weight", shape),
        ]

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit projections, head norms, rotation, attention."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        heads = ops.head_norm(ops.heads(qkv, layer), f"{place}.q_norm", f"{place}.k_norm")
        return ops.linear(ops.attend(ops.rope(heads)), f"{place}.o_proj")
