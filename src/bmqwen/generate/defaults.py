"""How a model answers where nobody says otherwise: as its publisher recommends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS, SamplingParams
from bmqwen.generate.tokenizer import read_config
from bmqwen.model.config import ModelConfig

# Layers times width up to which a model counts as small: Qwen1.5-1.8B has 49,152, Qwen2.5-3B 73,728.
_SMALL = 50_000


def default_params(folder: Path, config: ModelConfig, *, can_sample: bool = True) -> SamplingParams:
    """Return the sampling of a model: what its generation_config.json says, else what its family's do.

    Args:
        folder: holds generation_config.json, perhaps; a GGUF file brings none.
        config: of the model.
        can_sample: False for a compiled model that gives no logits, only the most likely token.

    Raises:
        ConfigError: generation_config.json is damaged, or a value in it is out of range.
    """
    if not can_sample:
        return SamplingParams(max_tokens=MAX_TOKENS)
    path = folder / "generation_config.json"
    own = _sampling_of(read_config(path))
    try:
        return SamplingParams(**family_values(config) | own, max_tokens=MAX_TOKENS)
    except InputError as error:
        raise ConfigError(f"{path} cannot be used: {error}; correct it, or delete it") from None


def family_values(config: ModelConfig) -> dict[str, Any]:
    """Return what the family's published generation_config.json files say, for a model that came without its own.

    Those of Qwen1.5, Qwen2, Qwen2.5 and Qwen2.5-Coder agree but for the repetition penalty: 1.1 up to 1.8B, 1.05 above.
    """
    values: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    if config.model_type == "qwen2":
        small = config.num_hidden_layers * config.hidden_size <= _SMALL
        values["repetition_penalty"] = 1.1 if small else 1.05
    return values


def _sampling_of(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        row.name: value
        for row in PARAMETERS
        if not row.per_answer
        and row.name != "max_tokens"
        and isinstance(value := generation_config.get(row.name), (int, float))
    }
    return values | ({"temperature": 0.0} if generation_config.get("do_sample") is False else {})
