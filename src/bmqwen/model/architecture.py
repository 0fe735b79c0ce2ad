"""What an architecture has to say, and what the models of Llama's kind have in common."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ConfigError
from bmqwen.model.config import ConfigValues, ModelConfig
from bmqwen.model.ops import Ops

_WINDOW = "use_sliding_window"
_BOTH_WAYS = "use_bidirectional_attention"

T = TypeVar("T")
H = TypeVar("H")


class Tensor(NamedTuple):
    """A tensor by its names in Hugging Face's and in GGUF files, and its shape: [out_features, in_features].

    In Hugging Face's files it may be stored otherwise: under the name `stored`, as one of two halves of the rows of
    each head, or less a constant, `plus`. GGUF may have the rows or columns in another order (`gguf_order`), or in
    place of x -exp(x): `negated_exp`.
    """

    name: str
    gguf: str
    shape: tuple[int, ...]
    stored: str = ""
    half: int | None = None
    plus: float = 0.0
    negated_exp: bool = False


class Architecture:
    """A network of certain sizes: embedding, layers of attention and gated MLP with a norm before each, norm, head.

    A subclass says how an architecture differs.

    Attributes:
        class_name: its name in config.json's `architectures`.
        headless_name: in `architectures`, of the network without an output layer, which gives embeddings; None: models
            of this kind give none that are the last token's hidden state.
        model_type: its name in config.json.
        gguf_name: its name in GGUF's general.architecture, where its keys begin with it.
        unsupported: switches of config.json that would change the network.
        stated_switches: those that a config.json written here states as off.
        published: the models that have a short name, by their hub ids, and what their config.json files say.
        default_head_dim: where config.json may lack head_dim; None: hidden_size / num_attention_heads.
        default_kv_heads: whether config.json may lack num_key_value_heads, there being as many as query heads.
        with_pictures: what config.json calls a model that has this one as its text_config, `architectures` and
            model_type.
        left_aside: what the names of tensors begin with that belong to such a model's other parts.
        gguf_keys: keys of config.json that GGUF's metadata have beside those of all architectures, and what they call
            them there.
    """

    class_name: ClassVar[str]
    headless_name: ClassVar[str | None] = None
    model_type: ClassVar[str]
    gguf_name: ClassVar[str]
    unsupported: ClassVar[tuple[str, ...]]
    stated_switches: ClassVar[tuple[str, ...]]
    published: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    default_head_dim: ClassVar[int | None] = None
    default_kv_heads: ClassVar[bool] = False
    gguf_keys: ClassVar[Mapping[str, str]] = {}
    with_pictures: ClassVar[tuple[str, str] | None] = None
    left_aside: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @classmethod
    def read(cls, values: ConfigValues) -> ModelConfig:
        """Read the configuration. Raises ConfigError for a value that is missing or unsupported."""
        if values.values.get("hidden_act", "silu") != "silu":
            raise values.error("hidden_act", "which is unsupported; only silu is supported")
        values.refuse(_BOTH_WAYS, *(key for key in cls.unsupported if key != _WINDOW))
        if values.values.get("is_causal") is False:  # as transformers reads it
            raise values.error(
                "is_causal", "but attention to later tokens is unsupported: use a causal model"
            )
        kinds = values.values.get("layer_types")
        if kinds is not None and (
            not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
        ):
            raise values.error("layer_types", "but only full_attention layers are supported")
        heads = values.integer("num_attention_heads", 1024)
        hidden = values.integer("hidden_size", 1 << 16)
        kv_heads = values.integer("num_key_value_heads", 1024, heads if cls.default_kv_heads else None)
        if heads % kv_heads:
            raise values.error("num_key_value_heads", f"but it must divide num_attention_heads = {heads}")
        derived = values.values.get("head_dim") is None and cls.default_head_dim is None
        if derived and hidden % heads:
            raise values.error("hidden_size", f"but it must be a multiple of num_attention_heads = {heads}")
        head_dim = values.integer("head_dim", 1024, cls.default_head_dim or hidden // heads)
        if head_dim < 2 or head_dim % 2:
            raise ConfigError(f"{values.source}: head_dim is {head_dim}, but RoPE needs an even number")
        theta, yarn = values.rope()
        positions = values.integer("max_position_embeddings", 1 << 24)
        if yarn is not None:
            # Qwen's own instructions for longer contexts leave max_position_embeddings as it was.
            positions = max(positions, int(yarn.factor * yarn.original_max_position_embeddings))
        if _WINDOW in cls.unsupported and values.flag(_WINDOW) and _slides(values, positions):
            raise values.error(_WINDOW, "which is unsupported")
        return ModelConfig(
            architecture=cls,
            vocab_size=values.integer("vocab_size", 1 << 20),
            hidden_size=hidden,
            intermediate_size=values.integer("intermediate_size", 1 << 18),
            num_hidden_layers=values.integer("num_hidden_layers", 512),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=values.number("rms_norm_eps", 0.0, 0.1),
            rope_theta=theta,
            max_position_embeddings=positions,
            tie_word_embeddings=values.flag("tie_word_embeddings"),
            yarn=yarn,
        )

    def sampling(self, *, thinks: bool) -> dict[str, float]:  # noqa: ARG002 - some have but one
        """Return the sampling that the family's models are published with, or that their cards recommend.

        `thinks`: before the answers there are thoughts.
        """
        return {"temperature": 0.7, "top_p": 0.8, "top_k": 20}

    def tensors(self) -> list[Tensor]:
        """List all tensors, in the order of the network. A tied head has none of its own.

        The embedding table, which stays on the host, belongs to no part but as the head.
        """
        c = self.config
        table = (c.vocab_size, c.hidden_size)
        tensors = []
        if c.is_last and (c.tie_word_embeddings or not c.layers_before):
            tensors.append(Tensor("model.embed_tokens.weight", "token_embd.weight", table))
        for layer in c.layers:
            place = block_prefix(layer)
            tensors += [
                tensor._replace(
                    name=f"{place}.{tensor.name}",
                    gguf=f"blk.{layer}.{tensor.gguf}",
                    stored=tensor.stored and f"{place}.{tensor.stored}",
                )
                for tensor in self.layer_tensors(layer)
            ]
        if c.is_last:
            tensors.append(Tensor("model.norm.weight", "output_norm.weight", (c.hidden_size,)))
            if not c.tie_word_embeddings and not c.headless:
                tensors.append(Tensor("lm_head.weight", "output.weight", table))
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors by their Hugging Face names, in the order of the network."""
        return {tensor.name: tensor.shape for tensor in self.tensors()}

    def layer_tensors(self, layer: int) -> list[Tensor]:
        """List the tensors of a decoder layer, with what follows the layer in their names."""
        c = self.config
        hidden, inner = c.hidden_size, c.intermediate_size
        return [
            Tensor("input_layernorm.weight", "attn_norm.weight", (hidden,)),
            *self.attention_tensors(layer),
            Tensor("post_attention_layernorm.weight", "ffn_norm.weight", (hidden,)),
            Tensor("mlp.gate_proj.weight", "ffn_gate.weight", (inner, hidden)),
            Tensor("mlp.up_proj.weight", "ffn_up.weight", (inner, hidden)),
            Tensor("mlp.down_proj.weight", "ffn_down.weight", (hidden, inner)),
        ]

    def attention_tensors(self, layer: int) -> list[Tensor]:  # noqa: ARG002 - some have layers of several kinds
        """List those of the attention: four projections without biases."""
        c = self.config
        return [
            Tensor("self_attn.q_proj.weight", "attn_q.weight", (c.q_size, c.hidden_size)),
            Tensor("self_attn.k_proj.weight", "attn_k.weight", (c.kv_size, c.hidden_size)),
            Tensor("self_attn.v_proj.weight", "attn_v.weight", (c.kv_size, c.hidden_size)),
            Tensor("self_attn.o_proj.weight", "attn_output.weight", (c.hidden_size, c.q_size)),
        ]

    @classmethod
    def gguf_values(cls, values: dict[str, object]) -> dict[str, object]:
        """Return values as in config.json of those that GGUF's metadata state under `gguf_keys` and the common keys."""
        return values

    def gguf_order(self, tensor: Tensor) -> tuple[int, NDArray[np.intp]] | None:  # noqa: ARG002 - some have none
        """Return the axis along which GGUF orders a tensor otherwise, and where in the file each entry is; None: as we
        do. The file may have more entries than the tensor.
        """
        return None

    @property
    def head_weight(self) -> str:
        """Name of the weight that the logits are computed with; without a head there is no such weight."""
        c = self.config
        return "model.embed_tokens" if c.tie_word_embeddings and not c.headless else "lm_head"

    def emit(self, ops: Ops[T, H]) -> T:
        """Emit the whole step: token ids in, logits of the wanted rows out, or their hidden states."""
        _, h = ops.add_rms_norm(*self.emit_layers(ops), "model.norm")
        rows = ops.wanted_rows(h)
        return ops.hidden(rows) if self.config.headless else ops.logits(rows, self.head_weight)

    def emit_layers(self, ops: Ops[T, H]) -> tuple[T, T]:
        """Emit the embedding and all layers; returns the residual stream and the last MLP's output, to be added."""
        layers = self.config.layers
        x = ops.embed("model.embed_tokens")
        h = ops.rms_norm(x, f"{block_prefix(layers.start)}.input_layernorm")
        for layer in layers[:-1]:
            x, mlp = self.emit_block(ops, layer, x, h)
            x, h = ops.add_rms_norm(x, mlp, f"{block_prefix(layer + 1)}.input_layernorm")
        return self.emit_block(ops, layers[-1], x, h, last=self.config.is_last)

    def emit_block(self, ops: Ops[T, H], layer: int, x: T, h: T, *, last: bool = False) -> tuple[T, T]:
        """Emit one decoder layer: from the residual stream `x` and the attention's input to `x` and the MLP's output.

        Args:
            ops: where to emit to.
            layer: index of the layer.
            x: residual stream [C, hidden].
            h: `x` after the layer's input_layernorm.
            last: no layer follows: of the rows only those whose logits are wanted need to go on.
        """
        place = block_prefix(layer)
        attended = self.attention(ops, h, layer, f"{place}.self_attn")
        if last:
            x, attended = ops.last_layer_rows(x, attended)
        x, h = ops.add_rms_norm(x, attended, f"{place}.post_attention_layernorm")
        # In one expression: of a calibration's tokens gate and up are gigabytes, which nobody is to hold any longer.
        mlp = ops.swiglu(ops.linear(h, f"{place}.mlp.gate_proj", f"{place}.mlp.up_proj"))
        return x, ops.linear(mlp, f"{place}.mlp.down_proj")

    def attention(self, ops: Ops[T, H], h: T, layer: int, place: str) -> T:
        """Emit the attention of a layer whose tensors' names begin with `place`: [C, hidden] to [C, hidden]."""
        qkv = ops.linear(h, f"{place}.q_proj", f"{place}.k_proj", f"{place}.v_proj")
        heads = ops.rope(ops.heads(qkv, layer))
        return ops.linear(ops.attend(heads), f"{place}.o_proj")


def _slides(values: ConfigValues, positions: int) -> bool:
    """Whether the sliding window that is switched on has an effect within so many positions, as in transformers."""
    given = values.values
    if isinstance(given.get("layer_types"), list):
        return False  # these say it instead, and are looked at on their own
    window, first = given.get("sliding_window", 4096), given.get("max_window_layers", 28)
    outside = isinstance(first, int) and first >= values.integer("num_hidden_layers", 512)
    return not (outside or window is None or (isinstance(window, int) and window >= positions))


def sizes(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **others: object
) -> Mapping[str, object]:
    """Return the values of a published config.json, for `Architecture.published`; `others` are named as there."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151_936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": False,
    } | others


def block_prefix(layer: int) -> str:
    """Return what the names of a decoder layer's tensors start with."""
    return f"model.layers.{layer}"
