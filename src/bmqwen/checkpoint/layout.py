"""Which tensors a model consists of, by their Hugging Face names."""

from pathlib import Path

from bmqwen.checkpoint.config import ModelConfig
from bmqwen.checkpoint.weights import Weights
from bmqwen.errors import CheckpointError


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


def check_layout(config: ModelConfig, weights: Weights, path: Path, source: str) -> None:
    """Raise CheckpointError unless `weights` are exactly the tensors that `config` demands.

    `path` is the file of weights and `source` where the configuration comes from, for the message.
    """
    expected = expected_tensors(config)
    names = weights.names()
    missing = [name for name in expected if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{path} lacks tensor {missing[0]}{more}, which {source} demands")
    for name, shape in expected.items():
        found = weights.shape(name)
        if found != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(found)}, but {source} demands {list(shape)}"
            )
    for name in sorted(names - expected.keys()):
        # Old exports keep constants of RoPE; a tied head is the embedding table, whatever else is stored.
        if not name.endswith(".rotary_emb.inv_freq") and name != "lm_head.weight":
            raise CheckpointError(
                f"{path} holds tensor {name[:200]}, which {config.architecture} in {source} does not have"
            )
