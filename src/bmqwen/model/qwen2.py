"""What Qwen2ForCausalLM (and a Llama without frills) computes."""

from typing import TypeVar

from bmqwen.model.config import ModelConfig
from bmqwen.model.ops import Ops

T = TypeVar("T")


def head_weight(config: ModelConfig) -> str:
    """Name of the weight that the logits are computed with."""
    return "model.embed_tokens" if config.tie_word_embeddings else "lm_head"


def block_prefix(layer: int) -> str:
    """Name in the checkpoint that a decoder layer's tensors start with."""
    return f"model.layers.{layer}"


def emit_block(config: ModelConfig, ops: Ops[T], layer: int, x: T, h: T) -> tuple[T, T]:
    """One decoder layer: from the residual stream `x` and the attention's input to `x` and the MLP's output.

    Args:
        config: the model's configuration.
        ops: where to emit to.
        layer: index of the layer.
        x: residual stream [C, hidden].
        h: `x` after the layer's input_layernorm.
    """
    prefix = block_prefix(layer)
    qkv = ops.linear(h, *(f"{prefix}.self_attn.{p}_proj" for p in "qkv"), bias=config.qkv_bias)
    attended = ops.linear(ops.attention(qkv, layer), f"{prefix}.self_attn.o_proj")
    x, h = ops.add_rms_norm(x, attended, f"{prefix}.post_attention_layernorm")
    gate_up = ops.linear(h, f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj")
    return x, ops.linear(ops.swiglu(gate_up), f"{prefix}.mlp.down_proj")


def emit(config: ModelConfig, ops: Ops[T]) -> T:
    """The whole step: token ids in, logits of the wanted rows out."""
    x = ops.embed("model.embed_tokens")
    h = ops.rms_norm(x, f"{block_prefix(0)}.input_layernorm")
    for layer in range(config.num_hidden_layers):
        x, mlp = emit_block(config, ops, layer, x, h)
        last = layer + 1 == config.num_hidden_layers
        x, h = ops.add_rms_norm(
            x, mlp, "model.norm" if last else f"{block_prefix(layer + 1)}.input_layernorm"
        )
    return ops.logits(ops.wanted_rows(h), head_weight(config))
