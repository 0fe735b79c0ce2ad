"""How a model answers where nobody says otherwise: as its publisher recommends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS, SamplingParams
from bmqwen.generate.tokenizer import read_config
from bmqwen.model.config import ModelConfig


def default_params(folder: Path, config: ModelConfig, *, can_sample: bool = True) -> SamplingParams:
    """Return the sampling of a model: what its generation_config.json says, else what those of its family do.

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
        return SamplingParams(**config.network.sampling() | own, max_tokens=MAX_TOKENS)
    except InputError as error:
        raise ConfigError(f"{path} cannot be used: {error}; correct it, or delete it") from None


def _sampling_of(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        row.name: value
        for row in PARAMETERS
        if not row.per_answer
        and row.name != "max_tokens"
        and isinstance(value := generation_config.get(row.name), (int, float))
    }
    return values | ({"temperature": 0.0} if generation_config.get("do_sample") is False else {})
