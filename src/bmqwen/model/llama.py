"""Llama without frills: full attention, no biases, RoPE that is not scaled."""

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.architecture import Architecture, Tensor


class Llama(Architecture):
    """What all others are told apart from (arXiv 2302.13971, grouped queries as in arXiv 2307.09288)."""

    class_name = "LlamaForCausalLM"
    model_type = "llama"
    gguf_name = "llama"
    # o_proj has a bias with Llama's attention_bias as well.
    unsupported = ("attention_bias", "mlp_bias", "rope_interleaved")
    stated_switches = ("attention_bias", "mlp_bias")
    default_kv_heads = True

    def gguf_order(self, tensor: Tensor) -> tuple[int, NDArray[np.intp]] | None:
        """Within a head llama.cpp's RoPE pairs neighbours, ours rows half a head apart: even rows, then odd ones."""
        if not tensor.name.endswith(("q_proj.weight", "k_proj.weight")):
            return None
        heads = np.arange(tensor.shape[0]).reshape(-1, self.config.head_dim // 2, 2)
        return 0, heads.swapaxes(1, 2).reshape(-1)
