"""A model's configuration by whatever names the model, without its weights."""

import contextlib
import tempfile
from pathlib import Path

from bmqwen.errors import BmqwenError, DownloadError, InputError
from bmqwen.hub.catalog import DEMO, MODELS, Model, find, is_short
from bmqwen.hub.hub import SOURCES, Hub, offline_wanted
from bmqwen.hub.published_configs import published_config
from bmqwen.hub.source import UnreachableError
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import read_config
from bmqwen.util.progress import Progress, Silent
from bmqwen.weights.checkpoint import open_checkpoint

PATIENCE = 10.0


def known_config(
    name: str | None, *, offline: bool = False, progress: Progress | None = None
) -> tuple[str, ModelConfig]:
    """Name and configuration of a model.

    A short name is known without network; of a folder config.json alone is read; of an unknown hub id only
    config.json is downloaded.

    Raises:
        InputError: an unknown name, a hub id that no hub has, or a path that does not exist.
        ConfigError, CheckpointError: the configuration is damaged or unsupported.
        DownloadError: no hub can be reached.
        MissingDependencyError: a GGUF file, and no `gguf` package.
    """
    progress = progress or Silent()
    if name and not is_short(name):
        path = Path(name)
        with contextlib.suppress(OSError, RuntimeError):
            path = path.expanduser()
            if path.exists():
                return path.resolve().name, _local(path)
    model = find(name) if name else DEMO
    if (config := published_config(model.name)) is not None and model.revision is None:
        return model.name, config
    if cached := Hub(models=MODELS).cache.find(model.name):
        return model.name, _local(cached.path)
    if offline or offline_wanted():
        raise DownloadError(
            f"the configuration of {model.title} is not on this machine, and offline mode is on: "
            "name a short name (bmqwen list) or a folder with its config.json"
        )
    return model.name, _remote(model, progress)


def _local(path: Path) -> ModelConfig:
    config = path / "config.json"
    if config.is_file():
        return read_config(config)
    if path.is_dir() and not any(path.glob("*.gguf")):
        raise InputError(f"{path} has no config.json: name a model's folder, or a short name (bmqwen list)")
    with open_checkpoint(path) as checkpoint:
        return checkpoint.config


def _remote(model: Model, progress: Progress) -> ModelConfig:
    """From the first hub that has it."""
    failures: list[BmqwenError] = []
    for make in SOURCES.values():
        place = make()
        if not place.offers(model):
            continue
        progress.start(f"Asking {place.title} for the configuration of {model.title}", None)
        try:
            release = place.find(model, PATIENCE)
            file = next((f for f in release.files if f.name == "config.json"), None)
            if file is None:
                raise InputError(
                    f"{release.repo} on {place.title} has no config.json: pull it, then it is known"
                )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / file.name
                place.fetch(release, file, path, lambda _: None, progress)
                return read_config(path)
        except (UnreachableError, DownloadError, InputError) as error:
            failures.append(error)
    # A hub that answered knows better than one that did not.
    raise next((e for e in failures if isinstance(e, InputError)), failures[0])
