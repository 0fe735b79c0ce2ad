"""Llama without frills: full attention, no biases, RoPE that is not scaled."""

from bmqwen.model.architecture import Architecture


class Llama(Architecture):
    """What all others are told apart from (arXiv 2302.13971, grouped queries as in arXiv 2307.09288)."""

    class_name = "LlamaForCausalLM"
    model_type = "llama"
    gguf_name = "llama"
    # o_proj has a bias with Llama's attention_bias as well.
    unsupported = ("attention_bias", "mlp_bias", "rope_interleaved")
    stated_switches = ("attention_bias", "mlp_bias")
    default_kv_heads = True
    rotates_neighbours = True
