"""A model's configuration by what users call the model, without its weights."""

from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import DEMO, existing_path, find
from bmqwen.hub.hub import Hub, offline_wanted
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import PUBLISHED_CONFIGS, parse_config, read_config
from bmqwen.util.paths import model_name
from bmqwen.util.progress import Progress, Silent
from bmqwen.weights.checkpoint import open_checkpoint


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
    for repo, values in PUBLISHED_CONFIGS.items():
        if repo.split("/")[1].lower() == name.removesuffix("-q4_k_m"):
            return parse_config(values, repo)
    return None
