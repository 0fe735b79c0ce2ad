"""Qwen1.5, Qwen2 and Qwen2.5: biases at the projections to queries, keys and values."""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from bmqwen.model.architecture import Architecture, Tensor, sizes
from bmqwen.model.ops import Ops

T = TypeVar("T")
H = TypeVar("H")

_0_5B = sizes(896, 4864, 24, 14, 2, tie_word_embeddings=True)
_1_5B = sizes(1536, 8960, 28, 12, 2, tie_word_embeddings=True)
_3B = sizes(2048, 11008, 36, 16, 2, tie_word_embeddings=True)
_7B = sizes(3584, 18944, 28, 28, 4, vocab_size=152_064)
_14B = sizes(5120, 13824, 48, 40, 8, vocab_size=152_064, rms_norm_eps=1e-5)
# Distilled into Qwen2.5-Math and Qwen2.5.
_R1 = {"max_position_embeddings": 131_072, "tie_word_embeddings": False}


class Qwen2(Architecture):
    """arXiv 2407.10671, section 2.2. o_proj never has a bias."""

    class_name = "Qwen2ForCausalLM"
    model_type = "qwen2"
    gguf_name = "qwen2"
    unsupported = ("use_sliding_window", "mlp_bias")
    stated_switches = ("use_sliding_window",)

    published: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "Qwen/Qwen1.5-0.5B-Chat": sizes(1024, 2816, 24, 16, 16, tie_word_embeddings=True),
        "Qwen/Qwen1.5-1.8B-Chat": sizes(2048, 5504, 24, 16, 16),
        "Qwen/Qwen1.5-4B-Chat": sizes(2560, 6912, 40, 20, 20, rope_theta=5e6),
        "Qwen/Qwen1.5-7B-Chat": sizes(4096, 11008, 32, 32, 32),
        "Qwen/Qwen2-0.5B-Instruct": _0_5B,
        "Qwen/Qwen2-1.5B-Instruct": _1_5B,
        "Qwen/Qwen2-7B-Instruct": _7B,
        "Qwen/Qwen2.5-0.5B-Instruct": _0_5B,
        "Qwen/Qwen2.5-1.5B-Instruct": _1_5B,
        "Qwen/Qwen2.5-3B-Instruct": _3B,
        "Qwen/Qwen2.5-7B-Instruct": _7B,
        "Qwen/Qwen2.5-Coder-0.5B-Instruct": _0_5B,
        "Qwen/Qwen2.5-Coder-1.5B-Instruct": _1_5B,
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {**_1_5B, **_R1, "rope_theta": 1e4},
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": {**_7B, **_R1, "rope_theta": 1e4},
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": {**_14B, **_R1},
    }

    def sampling(self, *, thinks: bool) -> dict[str, float]:
        """Return what the generation_config.json files of Qwen2, Qwen2.5 and Qwen2.5-Coder say; of models that think,
        those of DeepSeek-R1-Distill-Qwen.

        The repetition penalty is that of the larger ones. Models below 3B are published with 1.1, with which a demo
        model in 4 bits wrote a wrong bubble sort for 6 of 28 seeds; with 1.05, for 2.
        """
        if thinks:
            return {"temperature": 0.6, "top_p": 0.95}
        return super().sampling(thinks=thinks) | {"repetition_penalty": 1.05}

    def attention_tensors(self, layer: int) -> list[Tensor]:
        """List four projections and three biases."""
        q, k, v, o = super().attention_tensors(layer)
        return [q, _bias(q), k, _bias(k), v, _bias(v), o]

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit biased projections, rotation, attention."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj", bias=True)
        heads = ops.rope(ops.heads(qkv, layer))
        return ops.linear(ops.attend(heads), f"{place}.o_proj")


def _bias(weight: Tensor) -> Tensor:
    name, gguf = (text.replace("weight", "bias") for text in weight[:2])
    return Tensor(name, gguf, weight.shape[:1])
