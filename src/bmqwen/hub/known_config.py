"""A model's configuration by what users call the model, without its weights."""

import re
from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import DEMO, existing_path, find
from bmqwen.hub.hub import Hub, offline_wanted
from bmqwen.model.config import ModelConfig
from bmqwen.model.qwen2 import Qwen2
from bmqwen.model.registry import read_config
from bmqwen.util.paths import model_name
from bmqwen.util.progress import Progress, Silent
from bmqwen.weights.checkpoint import open_checkpoint

# Hidden size, MLP, layers, heads, K/V heads, tied embeddings: as published in each config.json.
_SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "qwen1.5-0.5b-chat": (1024, 2816, 24, 16, 16, True),
    "qwen1.5-1.8b-chat": (2048, 5504, 24, 16, 16, False),
    "qwen1.5-4b-chat": (2560, 6912, 40, 20, 20, False),
    "qwen1.5-7b-chat": (4096, 11008, 32, 32, 32, False),
    "qwen2-0.5b-instruct": (896, 4864, 24, 14, 2, True),
    "qwen2-1.5b-instruct": (1536, 8960, 28, 12, 2, True),
    "qwen2-7b-instruct": (3584, 18944, 28, 28, 4, False),
    "qwen2.5-3b-instruct": (2048, 11008, 36, 16, 2, True),
}


def known_config(
    name: str | None, *, offline: bool = False, progress: Progress | None = None
) -> tuple[str, ModelConfig]:
    """Return name and configuration of a model.

    A short name is known without network; of a folder config.json alone is read; of an unknown hub id only
    config.json is downloaded.

    Raises:
        InputError: an unknown name, a hub id that no hub has, or a path that does not exist.
        ConfigError, CheckpointError: the configuration is damaged or unsupported.
        DownloadError: no hub can be reached.
        MissingDependencyError: a GGUF file, and no `gguf` package.
    """
    if path := existing_path(name):
        return model_name(path), _local(path)
    model = find(name) if name else DEMO
    if (config := published_config(model.name)) is not None and model.revision is None:
        return model.name, config
    hub = Hub()
    if cached := hub.find(model):
        return model.name, _local(cached.path)
    if offline or offline_wanted():
        raise DownloadError(
            f"the configuration of {model.title} is not on this machine, and offline mode is on: "
            "name a short name (bmqwen list) or a folder with its config.json"
        )
    return model.name, hub.config(model, progress or Silent())


def _local(path: Path) -> ModelConfig:
    config = path / "config.json"
    if config.is_file():
        return read_config(config)
    if path.is_dir() and not any(path.glob("*.gguf")):
        raise InputError(f"{path} has no config.json: name a model's folder, or a short name (bmqwen list)")
    with open_checkpoint(path) as checkpoint:
        return checkpoint.config


def published_config(name: str) -> ModelConfig | None:
    """Return the configuration of a model by its short name; None for any other."""
    # Most of Qwen2.5 and its Coder are built as Qwen2 is.
    alike = re.sub(r"^qwen2\.5(-coder)?", "qwen2", name.removesuffix("-q4_k_m"))
    shape = _SHAPES.get(name) or _SHAPES.get(alike)
    if shape is None:
        return None
    hidden, inner, layers, heads, kv_heads, tied = shape
    return ModelConfig(
        architecture=Qwen2,
        vocab_size=152_064 if hidden == 3584 else 151_936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        rms_norm_eps=1e-6,
        rope_theta=5e6 if name == "qwen1.5-4b-chat" else 1e6,
        max_position_embeddings=32_768,
        tie_word_embeddings=tied,
    )
