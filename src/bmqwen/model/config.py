"""What a model's config.json says, read strictly: nothing that changes the result is ignored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from bmqwen.errors import ConfigError
from bmqwen.model.rope import Yarn, yarn_attention_factor

if TYPE_CHECKING:
    from bmqwen.model.architecture import Architecture


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Sizes of layers with a recurrent state, named as in Hugging Face's config.json."""

    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int

    @property
    def key_dim(self) -> int:
        """Width of all key (or query) heads together."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def value_dim(self) -> int:
        """Width of all value heads together."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def conv_dim(self) -> int:
        """Width of queries, keys and values, which the convolution goes over."""
        return 2 * self.key_dim + self.value_dim

    @property
    def conv_state(self) -> tuple[int, int]:
        """Shape of the rows that the convolution remembers."""
        return self.linear_conv_kernel_dim - 1, self.conv_dim

    @property
    def delta_state(self) -> tuple[int, int, int]:
        """Shape of the delta rule's state: value heads, and for each a key by value matrix."""
        return self.linear_num_value_heads, self.linear_key_head_dim, self.linear_value_head_dim


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of a model, named as in Hugging Face's config.json, and its architecture.

    Of a part of a model, `num_hidden_layers` counts the part's own layers; the last part has the head.
    """

    architecture: "type[Architecture]"
    vocab_size: int  # rows of the embedding table; at least the tokenizer's vocabulary
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    yarn: Yarn | None = None  # how RoPE is scaled for long contexts
    layer_types: tuple[str, ...] = ()  # "full_attention" or "linear_attention"; empty: all are full
    linear: LinearAttention | None = None  # sizes of the linear layers
    partial_rotary_factor: float = 1.0
    headless: bool = False  # no output layer: a step gives the hidden states after the last norm
    layers_before: int = 0  # of a part: layers in the parts before it
    layers_after: int = 0  # and in those after it

    @property
    def class_name(self) -> str:
        """Hugging Face's name of the network, with or without an output layer."""
        without = self.architecture.headless_name if self.headless else None
        return without or self.architecture.class_name

    @property
    def width(self) -> int:
        """Numbers that a step gives for a row: logits, or a hidden state."""
        return self.hidden_size if self.headless else self.vocab_size

    def part(self, layers: range) -> "ModelConfig":
        """Return the part of this model that has these layers, and the head if they are its last."""
        after = self.num_hidden_layers - layers.stop
        return replace(self, num_hidden_layers=len(layers), layers_before=layers.start, layers_after=after)

    @property
    def layers(self) -> range:
        """Numbers of the layers, in the whole model."""
        return range(self.layers_before, self.layers_before + self.num_hidden_layers)

    @property
    def is_last(self) -> bool:
        """Whether it ends with the last norm and the head: no part that others follow does."""
        return not self.layers_after

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that RoPE rotates: its first ones."""
        return int(self.head_dim * self.partial_rotary_factor)

    def is_full(self, layer: int) -> bool:
        """Whether a layer has full attention, and with it a KV cache, in place of a recurrent state."""
        return not self.layer_types or self.layer_types[layer] == "full_attention"

    @property
    def kv_layers(self) -> list[int]:
        """The layers that have a KV cache."""
        return [layer for layer in self.layers if self.is_full(layer)]

    @property
    def state_layers(self) -> list[int]:
        """The layers that have a recurrent state."""
        return [layer for layer in self.layers if not self.is_full(layer)]

    @property
    def linear_sizes(self) -> LinearAttention:
        """Sizes of the linear layers, which there must be."""
        assert self.linear is not None
        return self.linear

    @property
    def network(self) -> "Architecture":
        """The network of these sizes: its tensors and what it computes."""
        return self.architecture(self)

    def to_dict(self) -> dict[str, object]:
        """Return a dictionary fit for config.json; `registry.parse_config` gives this object back."""
        values: dict[str, object] = {
            "architectures": [self.class_name],
            "model_type": self.architecture.model_type,
            "hidden_act": "silu",
        }
        values |= {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        for name in ("yarn", "linear", "headless", "layers_before", "layers_after"):
            del values[name]
        if self.linear is None:
            del values["layer_types"], values["partial_rotary_factor"]
        else:
            values |= {**asdict(self.linear), "layer_types": list(self.layer_types)}
        if self.yarn is not None:
            values["rope_scaling"] = {"rope_type": "yarn"} | asdict(self.yarn)
        return values | dict.fromkeys(self.architecture.stated_switches, False)


@dataclass(frozen=True, slots=True)
class ConfigValues:
    """Takes typed values out of a dictionary; each method raises ConfigError, which names `source` and key."""

    values: Mapping[str, object]
    source: str

    def integer(self, key: str, most: int, default: int | None = None) -> int:
        """Return a whole number from 1 to `most`; without a default it must be there."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise ConfigError(f"{self.source}: {key} is missing")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.error(key, f"but it must be a whole number from 1 to {most:,}")
        return value

    def number(self, key: str, above: float, most: float) -> float:
        """Return a number above `above` and at most `most`, which must be there."""
        value = self.values.get(key)
        if value is None:
            raise ConfigError(f"{self.source}: {key} is missing")
        # Compared before the conversion, since a huge integer has no float; NaN fails the comparison.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value <= most:
            raise self.error(key, f"but it must be a number above {above:g} and at most {most:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false; a missing or null key is false."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "but it must be true or false")
        return bool(value)

    def refuse(self, *switches: str) -> None:
        """Raise unless all these switches are off."""
        for key in switches:
            if self.flag(key):
                raise self.error(key, "which is unsupported")

    def rope(self) -> tuple[float, Yarn | None]:
        """Return RoPE's base and scaling, from either spelling: rope_theta and rope_scaling, or rope_parameters."""
        given: list[tuple[str, float]] = []
        scaled: list[tuple[str, Yarn | None]] = []
        if "rope_theta" in self.values:
            given.append(("rope_theta", self.number("rope_theta", 1.0, 1e12)))
        for key in ("rope_scaling", "rope_parameters"):
            entry = self.values.get(key)
            if entry is None:
                continue
            if not isinstance(entry, dict):
                raise self.error(key, "but it must be an object or null")
            inner = ConfigValues(entry, f"{self.source}, {key}")
            if "rope_theta" in entry:
                given.append((key, inner.number("rope_theta", 1.0, 1e12)))
            scaled.append((key, inner.yarn(self)))
        if len({theta for _, theta in given}) > 1:
            raise ConfigError(f"{self.source}: rope_theta is given twice and differs: {_show(given)}")
        if len({yarn for _, yarn in scaled}) > 1:
            raise ConfigError(f"{self.source}: RoPE's scaling is given twice and differs: {_show(scaled)}")
        # Hugging Face's default for all these model types.
        return given[0][1] if given else 10000.0, scaled[0][1] if scaled else None

    def yarn(self, whole: "ConfigValues") -> Yarn | None:
        """Return the scaling that this entry of a configuration, the `whole`, describes; None for none."""
        names = {"rope_type", "type", "rope_theta"}
        stretched = False
        for key in ("rope_type", "type"):
            kind = self.values.get(key, "default")
            if kind not in (None, "default", "yarn"):
                raise self.error(key, "which is unsupported; only unscaled RoPE and yarn are supported")
            stretched |= kind == "yarn"
        if stretched:
            # transformers does not know attn_factor, which DeepSeek-R1-0528-Qwen3-8B has, and passes it over.
            names |= {field.name for field in fields(Yarn)} | {"attn_factor"}
        for name in self.values.keys() - names:
            if not (name == "partial_rotary_factor" and self.values[name] == 1.0):
                raise self.error(str(name), "which is unsupported; only unscaled RoPE and yarn are supported")
        if not stretched:
            return None
        factor, most = self.number("factor", 0.0, 1e4), 1 << 24
        given = {
            key: self.number(key, 0.0, 1e4)
            for key in ("attention_factor", "beta_fast", "beta_slow")
            if self.values.get(key) is not None
        }
        trained = self.integer(
            "original_max_position_embeddings", most, whole.integer("max_position_embeddings", most)
        )
        return Yarn(factor, trained, given.pop("attention_factor", yarn_attention_factor(factor)), **given)

    def error(self, key: str, why: str) -> ConfigError:
        """Return a ConfigError about a key's value."""
        return ConfigError(f"{self.source}: {key} = {_show(self.values.get(key))}, {why}")


def _show(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
