"""How a model answers where nobody says otherwise: as its publisher recommends."""

from pathlib import Path
from typing import Any

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.params import MAX_TOKENS, PARAMETERS, SamplingParams
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import read_config
from bmqwen.model.config import ModelConfig


def default_params(folder: Path, config: ModelConfig, *, can_sample: bool = True) -> SamplingParams:
    """Return the sampling of a model: what the folder's generation_config.json says, else what those of its family do,
    or their cards, for models that think or do not, as the chat template has it.

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
    family, other_mode, thinking = {}, {}, None
    if "temperature" not in own and not config.headless:
        thinks, can_switch = _thinking(folder)
        family = config.network.sampling(thinks=thinks)
        if can_switch:
            other_mode = config.network.sampling(thinks=not thinks)
            thinking = None if thinks else False
    if said.get("do_sample") is False:
        own["temperature"] = 0.0
    try:
        values: dict[str, Any] = {"max_tokens": MAX_TOKENS, "enable_thinking": thinking, **family, **own}
        return SamplingParams(
            **values, other_mode={name: value for name, value in other_mode.items() if name not in own}
        )
    except InputError as error:
        raise ConfigError(f"{path} cannot be used: {error}; correct it, or delete it") from None


def _thinking(folder: Path) -> tuple[bool, bool]:
    """Return whether a model thinks where nobody says otherwise, and whether that can be changed."""
    try:
        template = ChatTemplate.from_folder(folder)
        if not template.thinks or not template.can_switch_thinking:
            return template.thinks, False
        return template.thinks_unless_told, True
    except (ConfigError, InputError):  # reported where there is a chat
        return False, False
