"""A published bmodel, a file by itself, as a bundle: sizes from its nets, a tokenizer from nearby."""

import re
from collections.abc import Iterator
from pathlib import Path

from bmqwen.artifact.bmodel import BmodelDescription, read_description
from bmqwen.artifact.bundle import Bundle, FileEntry
from bmqwen.artifact.published_layout import LAYOUT, PublishedModel, published_model
from bmqwen.errors import BundleError
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.cache import Cache
from bmqwen.model.config import ModelConfig
from bmqwen.model.qwen2 import Qwen2
from bmqwen.runtime.bmodel.nets import IO_ALONE

# As the publisher calls them: qwen1.5-1.8b_int4_1dev.bmodel, qwen1.5-7b_int4_seq512_1dev.bmodel.
_NAME = re.compile(r"(?P<base>(?P<family>qwen[\d.]+)-[\d.]+b)_(?P<precision>[a-z]*\d+)(_|\.)", re.IGNORECASE)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def open_published(path: Path) -> Bundle:
    """The bundle of a published bmodel; nothing is written.

    Args:
        path: the file.

    Raises:
        BundleError: it is damaged, of another kind, or there is no tokenizer for it.
        ConfigError: the tokenizer cannot be used.
    """
    bmodel = read_description(path)
    model = published_model(bmodel)
    tokenizer = _tokenizer(path)
    name = _NAME.match(path.name)
    return Bundle(
        folder=path.parent,
        kind="bmodel",
        model=path.name,
        config=_config(model, tokenizer),
        # How the publisher quantised is not in the file, only in its name.
        precision={},
        details={
            "layout": LAYOUT,
            "bmodel": path.name,
            "precision": name["precision"].lower() if name else "unknown precision",
            "chip": bmodel.chip,
            "toolchain": bmodel.compiler,
            "context": model.context,
            "half": model.half,
            "device_bytes": bmodel.device_bytes + _cache_bytes(bmodel, model),
        },
        files={path.name: FileEntry(bmodel.bytes, "")},
        tokenizer=tokenizer,
    )


def published_in(folder: Path) -> Path | None:
    """The one bmodel in a folder that holds no checkpoint; None for any other folder."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    found = list(folder.glob("*.bmodel"))
    return found[0] if len(found) == 1 else None


def _config(model: PublishedModel, tokenizer: Path) -> ModelConfig:
    """What is known of the model; 0 where the nets do not tell."""
    return ModelConfig(
        architecture=Qwen2,
        vocab_size=model.vocab_size or Tokenizer.from_folder(tokenizer).vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=0,
        num_hidden_layers=model.layers,
        num_attention_heads=model.hidden_size // model.head_dim,
        num_key_value_heads=model.key_value_heads,
        head_dim=model.head_dim,
        rms_norm_eps=0.0,
        rope_theta=0.0,
        max_position_embeddings=model.context,
        tie_word_embeddings=False,
    )


def _cache_bytes(bmodel: BmodelDescription, model: PublishedModel) -> int:
    """Memory for keys and values where the nets do not bring it themselves."""
    if bmodel.nets["block_cache_0"].address_mode == IO_ALONE:
        return 0
    return 4 * model.layers * model.context * model.key_value_heads * model.head_dim


def _tokenizer(path: Path) -> Path:
    """The folder of its tokenizer: beside it, where the publisher's scripts put it, or a downloaded model's."""
    for folder in _tokenizer_folders(path):
        if all((folder / name).is_file() for name in _TOKENIZER):
            return folder
    name = _NAME.match(path.name)
    base = f"{name['base'].lower()}-chat" if name else "the model"
    raise BundleError(
        f"there is no tokenizer for {path}: put tokenizer.json and tokenizer_config.json of {base} into "
        f"{path.parent}, or get both with `bmqwen pull {path.stem} --source sophgo`"
    )


def _tokenizer_folders(path: Path) -> Iterator[Path]:
    here = path.absolute().parent
    yield here
    yield here / "token_config"
    # models/CHIP/NAME.bmodel beside python/token_config
    yield from (parent / "python" / "token_config" for parent in list(here.parents)[:2])
    name = _NAME.match(path.name)
    if name:
        base, family = name["base"].lower(), name["family"].lower()
        cached = [model for model in Cache().models() if model.complete and model.name.startswith(family)]
        # The tokenizers of a family are the same; that of the same size is the first choice.
        for model in sorted(cached, key=lambda model: not model.name.startswith(base)):
            yield model.path if model.path.is_dir() else model.path.parent
