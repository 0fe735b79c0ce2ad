"""What a model's config.json says, read strictly: nothing that changes the result is ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bmqwen.errors import ConfigError
from bmqwen.model.packing import read_packing
from bmqwen.util.json_file import read_json_object

_MODEL_TYPES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of a `Qwen2ForCausalLM` or a Llama-type model, as in Hugging Face's config.json."""

    model_type: str  # "qwen2" or "llama"
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
    qkv_bias: bool

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
    def architecture(self) -> str:
        """Hugging Face's class name."""
        return next(name for name, kind in _MODEL_TYPES.items() if kind == self.model_type)

    @classmethod
    def from_dict(cls, values: Mapping[str, object], source: str) -> "ModelConfig":
        """The configuration in the values of a config.json; `source` names the file in messages.

        Raises:
            ConfigError: a key is missing, has a value out of range, or asks for something unsupported.
        """
        return _Reader(values, source).config()

    def to_dict(self) -> dict[str, object]:
        """A dictionary fit for config.json; `from_dict` gives this object back."""
        values: dict[str, object] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        if self.model_type == "llama":
            values |= {"attention_bias": self.qkv_bias, "mlp_bias": False}
        else:
            values["use_sliding_window"] = False
        return values


def read_config(path: Path) -> ModelConfig:
    """The configuration in a config.json file. Raises ConfigError."""
    return ModelConfig.from_dict(read_json_object(path, ConfigError), str(path))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes typed values out of a dictionary and says what is wrong with the others."""

    values: Mapping[str, object]
    source: str

    def config(self) -> ModelConfig:
        model_type = self._model_type()
        self._refuse_unsupported(model_type)
        heads = self._integer("num_attention_heads", 1024)
        hidden = self._integer("hidden_size", 1 << 16)
        # Qwen2's default is no function of the other keys, so only Llama may leave this one out.
        kv_heads = self._integer("num_key_value_heads", 1024, heads if model_type == "llama" else None)
        if heads % kv_heads:
            raise self._error("num_key_value_heads", f"but it must divide num_attention_heads = {heads}")
        if self.values.get("head_dim") is None and hidden % heads:
            raise self._error("hidden_size", f"but it must be a multiple of num_attention_heads = {heads}")
        head_dim = self._integer("head_dim", 1024, hidden // heads)
        if head_dim < 2 or head_dim % 2:
            raise ConfigError(f"{self.source}: head_dim is {head_dim}, but RoPE needs an even number")
        return ModelConfig(
            model_type=model_type,
            vocab_size=self._integer("vocab_size", 1 << 20),
            hidden_size=hidden,
            intermediate_size=self._integer("intermediate_size", 1 << 18),
            num_hidden_layers=self._integer("num_hidden_layers", 512),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=self._number("rms_norm_eps", 0.0, 0.1),
            rope_theta=self._rope_theta(),
            max_position_embeddings=self._integer("max_position_embeddings", 1 << 24),
            tie_word_embeddings=self._flag("tie_word_embeddings"),
            qkv_bias=model_type == "qwen2",
        )

    def _model_type(self) -> str:
        names = self.values.get("architectures")
        name = names[0] if isinstance(names, list) and len(names) == 1 else None
        model_type = _MODEL_TYPES.get(name) if isinstance(name, str) else None
        supported = f"supported are {' and '.join(_MODEL_TYPES)}"
        if model_type is None:
            raise self._error("architectures", f"which is unsupported; {supported}")
        if self.values.get("model_type", model_type) != model_type:
            raise self._error("model_type", f"which contradicts architectures = {_show(names)}")
        return model_type

    def _refuse_unsupported(self, model_type: str) -> None:
        if self.values.get("hidden_act", "silu") != "silu":
            raise self._error("hidden_act", "which is unsupported; only silu is supported")
        read_packing(self.values, self.source)
        # o_proj gets a bias with Llama's attention_bias, and Qwen2 never has one.
        llama = ("attention_bias", "mlp_bias", "rope_interleaved")
        for key in llama if model_type == "llama" else ("use_sliding_window", "mlp_bias"):
            if self._flag(key):
                raise self._error(key, "which is unsupported")
        kinds = self.values.get("layer_types")
        if kinds is not None and (
            not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
        ):
            raise self._error("layer_types", "but only full_attention layers are supported")

    def _rope_theta(self) -> float:
        """RoPE's base, from either spelling: rope_theta and rope_scaling, or the newer rope_parameters."""
        given: list[tuple[str, float]] = []
        if "rope_theta" in self.values:
            given.append(("rope_theta", self._number("rope_theta", 1.0, 1e12)))
        for key in ("rope_scaling", "rope_parameters"):
            entry = self.values.get(key)
            if entry is None:
                continue
            if not isinstance(entry, dict):
                raise self._error(key, "but it must be an object or null")
            inner = _Reader(entry, f"{self.source}, {key}")
            for kind in ("rope_type", "type"):
                if entry.get(kind, "default") != "default":
                    raise inner._error(kind, "which is unsupported; only unscaled RoPE is supported")
            for name in entry.keys() - {"rope_type", "type", "rope_theta"}:
                if not (name == "partial_rotary_factor" and entry[name] == 1.0):
                    raise inner._error(str(name), "which is unsupported; only unscaled RoPE is supported")
            if "rope_theta" in entry:
                given.append((key, inner._number("rope_theta", 1.0, 1e12)))
        if len({theta for _, theta in given}) > 1:
            raise ConfigError(f"{self.source}: rope_theta is given twice and differs: {_show(given)}")
        return given[0][1] if given else 10000.0  # Hugging Face's default for both model types

    def _integer(self, key: str, most: int, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise ConfigError(f"{self.source}: {key} is missing")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self._error(key, f"but it must be a whole number from 1 to {most:,}")
        return value

    def _number(self, key: str, above: float, most: float) -> float:
        value = self.values.get(key)
        if value is None:
            raise ConfigError(f"{self.source}: {key} is missing")
        # Compared before the conversion, since a huge integer has no float; NaN fails the comparison.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value <= most:
            raise self._error(key, f"but it must be a number above {above:g} and at most {most:g}")
        return float(value)

    def _flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._error(key, "but it must be true or false")
        return bool(value)

    def _error(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key} = {_show(self.values.get(key))}, {why}")


def _show(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
