"""Qwen1.5, Qwen2 and Qwen2.5: biases at the projections to queries, keys and values."""

from typing import TypeVar

from bmqwen.model.architecture import Architecture, Tensor
from bmqwen.model.ops import Ops

T = TypeVar("T")
H = TypeVar("H")


class Qwen2(Architecture):
    """arXiv 2407.10671, section 2.2. o_proj never has a bias."""

    class_name = "Qwen2ForCausalLM"
    model_type = "qwen2"
    unsupported = ("use_sliding_window", "mlp_bias")
    stated_switches = ("use_sliding_window",)

    def sampling(self) -> dict[str, float]:
        """Return what the generation_config.json files of Qwen2, Qwen2.5 and Qwen2.5-Coder say.

        The repetition penalty is that of the larger ones. Models below 3B are published with 1.1, with which a demo
        model in 4 bits wrote a wrong bubble sort for 6 of 28 seeds; with 1.05, for 2.
        """
        return super().sampling() | {"repetition_penalty": 1.05}

    def attention_tensors(self) -> list[Tensor]:
        """List four projections and three biases."""
        q, k, v, o = super().attention_tensors()
        return [q, _bias(q), k, _bias(k), v, _bias(v), o]

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit biased projections, rotation, attention."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj", bias=True)
        heads = ops.rope(ops.heads(qkv, layer))
        return ops.linear(ops.attend(heads), f"{place}.o_proj")


def _bias(weight: Tensor) -> Tensor:
    name, gguf = (text.replace("weight", "bias") for text in weight[:2])
    return Tensor(name, gguf, weight.shape[:1])
