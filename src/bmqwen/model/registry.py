"""The architectures that there are, found by what a file calls them; and a config.json read by the right one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bmqwen.errors import ConfigError
from bmqwen.model.architecture import Architecture
from bmqwen.model.config import ConfigValues, ModelConfig
from bmqwen.model.llama import Llama
from bmqwen.model.other_kinds import other_kind
from bmqwen.model.packing import read_packing
from bmqwen.model.qwen2 import Qwen2
from bmqwen.model.qwen3 import Qwen3
from bmqwen.model.qwen3_5 import Qwen35
from bmqwen.util.json_file import read_json_object

ARCHITECTURES: tuple[type[Architecture], ...] = (Qwen2, Qwen3, Qwen35, Llama)

# Of all models that have a short name, by hub id.
PUBLISHED_CONFIGS: Mapping[str, Mapping[str, object]] = {
    repo: {"architectures": [architecture.class_name], **values}
    for architecture in ARCHITECTURES
    for repo, values in architecture.published.items()
}


def gguf_architecture(name: object, source: str) -> type[Architecture]:
    """Find the architecture that GGUF's general.architecture names. Raises ConfigError."""
    for architecture in ARCHITECTURES:
        if architecture.gguf_name == name:
            return architecture
    kind = other_kind([name], {})
    supported = f"supported are {_listed([a.gguf_name for a in ARCHITECTURES])}"
    raise ConfigError(
        f"{source}: general.architecture = {str(name)[:40]!r}, {kind or f'which is unsupported; {supported}'}"
    )


def parse_config(values: Mapping[str, object], source: str) -> ModelConfig:
    """Read the configuration in the values of a config.json; `source` names the file in messages.

    Raises:
        ConfigError: a key is missing, has a value out of range, or asks for something unsupported.
    """
    values = _text_config(values, source)
    reader = ConfigValues(values, source)
    names = values.get("architectures")
    if names is None:  # transformers' classes for a task look at model_type alone
        names = [a.class_name for a in ARCHITECTURES if a.model_type == values.get("model_type")] or None
    architecture = next((a for a in ARCHITECTURES if names in ([a.class_name], [a.headless_name])), None)
    if architecture is None:
        supported = f"supported are {_listed([a.class_name for a in ARCHITECTURES])}"
        kind = other_kind(names if isinstance(names, list) else [], values)
        raise reader.error("architectures", kind or f"which is unsupported; {supported}")
    if values.get("model_type", architecture.model_type) != architecture.model_type:
        raise reader.error("model_type", f"which contradicts architectures = {names}")
    read_packing(values, source)
    return replace(architecture.read(reader), headless=names == [architecture.headless_name])


def _text_config(values: Mapping[str, object], source: str) -> Mapping[str, object]:
    """The configuration of the text in that of a model with pictures; any other as it is."""
    for architecture in ARCHITECTURES:
        if architecture.with_pictures and values.get("architectures") == [architecture.with_pictures[0]]:
            text = values.get("text_config")
            if not isinstance(text, Mapping):
                raise ConfigError(f"{source}: text_config is missing")
            names = {"architectures": [architecture.class_name], "model_type": architecture.model_type}
            return {**values, **text, **names}
    return values


def read_config(path: Path) -> ModelConfig:
    """Read the configuration in a config.json file. Raises ConfigError."""
    return parse_config(read_json_object(path, ConfigError), str(path))


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])
