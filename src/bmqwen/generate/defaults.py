"""How a model answers where nobody says otherwise: as its publisher recommends."""

from pathlib import Path

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS, SamplingParams
from bmqwen.generate.tokenizer import read_config
from bmqwen.model.config import ModelConfig


def default_params(folder: Path, config: ModelConfig, *, can_sample: bool = True) -> SamplingParams:
    """Return the sampling of a model: what the folder's generation_config.json says, else what those of its family do.

    A file with a temperature says all of it: DeepSeek's models of Qwen's architecture have no repetition penalty.

    `can_sample` is False for a compiled model that gives no logits, only the most likely token.
    Raises ConfigError for a generation_config.json that is damaged, or a value in it out of range.
    """
    if not can_sample:
        return SamplingParams(max_tokens=MAX_TOKENS)
    path = folder / "generation_config.json"
    said = read_config(path)
    own = {
        row.name: said[row.name]
        for row in PARAMETERS
        if not (row.per_answer or row.chat or row.name == "max_tokens")
        and isinstance(said.get(row.name), (int, float))
    }
    family, without_thoughts = {}, {}
    if "temperature" not in own:
        family, without_thoughts = config.network.sampling(), config.network.sampling_without_thoughts()
    if said.get("do_sample") is False:
        own["temperature"] = 0.0
    try:
        other_mode = {name: value for name, value in without_thoughts.items() if name not in own}
        return SamplingParams(**family | own, max_tokens=MAX_TOKENS, other_mode=other_mode)
    except InputError as error:
        raise ConfigError(f"{path} cannot be used: {error}; correct it, or delete it") from None
