"""A tiny model on a local server, and a hub that downloads from there into folders of a test."""

import json
import random
from hashlib import sha256
from pathlib import Path

from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import HUGGINGFACE, MODELSCOPE, find
from bmqwen.hub.hub import Hub
from bmqwen.hub.huggingface import HuggingFace, HuggingFaceCache
from bmqwen.hub.modelscope import ModelScope
from bmqwen.hub.source import Release, RemoteFile, Source
from support.checkpoints import tiny_config
from support.pull_server import COMMIT, HubServer

REPO = "me/tiny"
WEIGHTS = random.Random(1).randbytes(600_000)
FILES = {
    "config.json": json.dumps(tiny_config().to_dict()).encode(),
    "tokenizer.json": b"{}",
    "README.md": b"not wanted",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"never",
}
STATE = Release(find(REPO), REPO, COMMIT, ())
WANTED = {"config.json", "tokenizer.json", "model.safetensors"}


def sources(server: HubServer, folder: Path) -> dict[str, Source]:
    return {
        HUGGINGFACE: HuggingFace(server.endpoint, folder / "hf"),
        MODELSCOPE: ModelScope(server.endpoint, folder / "ms"),
    }


def hub_of(server: HubServer, folder: Path, *, offline: bool = False) -> Hub:
    return Hub(Cache(folder / "own"), sources=sources(server, folder), offline=offline)


def part_of(folder: Path, name: str = "model.safetensors") -> Path:
    """Where a file from Hugging Face grows."""
    part = HuggingFaceCache(None, folder / "hf").part(
        STATE, RemoteFile(name, 0, sha256(FILES[name]).hexdigest())
    )
    part.parent.mkdir(parents=True, exist_ok=True)
    return part
