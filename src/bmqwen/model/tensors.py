"""Which tensors a model consists of, by their Hugging Face names."""

from bmqwen.model.config import ModelConfig


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that `config` demands, in the order of the network.

    Shapes are PyTorch's: [out_features, in_features]. A tied head has no tensor of its own.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        tensors[f"{layer}.input_layernorm.weight"] = (hidden,)
        for name, width in (("q", config.q_size), ("k", config.kv_size), ("v", config.kv_size)):
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = (width, hidden)
            if config.qkv_bias:
                tensors[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        tensors[f"{layer}.self_attn.o_proj.weight"] = (hidden, config.q_size)
        tensors[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        tensors[f"{layer}.mlp.gate_proj.weight"] = (inner, hidden)
        tensors[f"{layer}.mlp.up_proj.weight"] = (inner, hidden)
        tensors[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
    tensors["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, hidden)
    return tensors
