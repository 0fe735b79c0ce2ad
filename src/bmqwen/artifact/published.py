"""A published bmodel, one net a layer: told from others, its sizes read from its nets, opened as a bundle."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bmqwen.artifact.bmodel import (
    IO_ALONE,
    BmodelDescription,
    NetDescription,
    StageDescription,
    read_description,
)
from bmqwen.artifact.bundle import PUBLISHED_NETS, Bundle, FileEntry
from bmqwen.chip.spec import spec_of
from bmqwen.errors import BundleError
from bmqwen.model.config import ModelConfig
from bmqwen.model.qwen2 import Qwen2
from bmqwen.util.paths import model_name

_NEEDED = ("embedding", "embedding_cache", "block_0", "block_cache_0", "lm_head")
# As the publisher calls them: qwen1.5-1.8b_int4_1dev.bmodel, qwen1.5-7b_int4_seq512_1dev.bmodel.
_NAME = re.compile(r"(?P<base>(?P<family>qwen[\d.]+)-[\d.]+b)_(?P<precision>[a-z]*\d+)(_|\.)", re.IGNORECASE)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def published_model(bmodel: BmodelDescription) -> ModelConfig:
    """Read the sizes of the model; 0 where the nets do not tell.

    Raises BundleError: the nets are of another kind, or for another chip or for several.
    """
    path, nets = bmodel.path, bmodel.nets
    missing = [name for name in _NEEDED if not nets.get(name) or not nets[name].stages]
    if missing:
        names = ", ".join([*(name[:40] for name in list(nets)[:4]), *(["..."] if len(nets) > 4 else [])])
        if "step" in nets:
            raise BundleError(
                f"{path} is the bmodel of a bundle, which holds its tokenizer and embedding table, too: name the "
                "bundle's folder"
            )
        raise BundleError(
            f"{path} has unknown nets ({names or 'none at all'}; without {missing[0]}): bundles of bmqwen compile and "
            "the publisher's qwen1.5-*.bmodel can be run"
        )
    spec_of(bmodel.chip, path)
    block, step = nets["block_0"].stages[0], nets["block_cache_0"].stages[0]
    if bmodel.chips > 1 or len(step.inputs) > 5:
        raise BundleError(f"{path} was compiled for several chips at once: get the one named ..._1dev.bmodel")
    rows = [*block.inputs[:1], *block.outputs[1:3]]
    if len(rows) < 3 or [len(t.shape) for t in rows] != [3, 4, 4] or len(step.inputs) < 4:
        raise BundleError(
            f"{path}: net block_0 is not a layer of a Qwen model as its publisher compiles them"
        )
    (_, context, hidden), (_, _, kv_heads, head_dim) = rows[0].shape, rows[1].shape
    return ModelConfig(
        architecture=Qwen2,
        vocab_size=_vocabulary(nets["lm_head"].stages[0], nets.get("greedy_head")),
        hidden_size=hidden,
        intermediate_size=0,
        num_hidden_layers=_layers(bmodel),
        num_attention_heads=hidden // max(1, head_dim),
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=0.0,
        rope_theta=0.0,
        max_position_embeddings=context,
        tie_word_embeddings=False,
    )


def _layers(bmodel: BmodelDescription) -> int:
    """How many; BundleError where prompt's and token's nets do not belong together."""
    found = {
        kind: {int(m[1]) for name in bmodel.nets if (m := re.fullmatch(rf"{kind}_(\d+)", name))}
        for kind in ("block", "block_cache")
    }
    layers = len(found["block"])
    if found["block"] != set(range(layers)) or found["block_cache"] != found["block"]:
        raise BundleError(f"{bmodel.path} lacks the nets of some layers: download it again")
    return layers


def _vocabulary(head: StageDescription, greedy: NetDescription | None) -> int:
    """Width of the logits; 0 where the nets give a token only."""
    for tensors in (head.outputs, greedy.stages[0].inputs if greedy and greedy.stages else ()):
        if tensors and tensors[0].shape and tensors[0].shape[-1] > 1:
            return tensors[0].shape[-1]
    return 0


def open_published(path: Path, downloaded: Callable[[], Sequence[Path]] = list) -> Bundle:
    """Return the bundle of a published bmodel; nothing is written.

    `downloaded` finds folders of models, whose tokenizers serve where there is none nearby; that takes a while.
    Raises BundleError: the file is damaged, of another kind, or there is no tokenizer for it that can be used.
    """
    bmodel = read_description(path)
    config = published_model(bmodel)
    tokenizer = _tokenizer(path, downloaded)
    name = _NAME.match(path.name)
    # Memory for keys and values, where the nets do not bring it themselves.
    cache = 4 * config.num_hidden_layers * config.max_position_embeddings * config.kv_size
    brought = bmodel.nets["block_cache_0"].address_mode == IO_ALONE
    return Bundle(
        folder=path.parent,
        kind="bmodel",
        model=path.name,
        config=config if config.vocab_size else replace(config, vocab_size=_token_count(tokenizer)),
        # How the publisher quantised is not in the file, only in its name.
        precision={},
        details={
            "nets": PUBLISHED_NETS,
            "bmodel": path.name,
            "precision": name["precision"].lower() if name else "unknown precision",
            "chip": bmodel.chip,
            "toolchain": bmodel.compiler,
            "context": config.max_position_embeddings,
            "half": bmodel.nets["block_0"].stages[0].inputs[0].dtype,
            "logits": config.vocab_size > 0,
            "device_bytes": bmodel.device_bytes + (0 if brought else cache),
        },
        files={path.name: FileEntry(bmodel.bytes, "")},
        tokenizer=tokenizer,
    )


def published_in(folder: Path) -> Path | None:
    """Return the one bmodel in a folder that holds no checkpoint; None for any other folder."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    found = list(folder.glob("*.bmodel"))
    return found[0] if len(found) == 1 else None


def _tokenizer(path: Path, downloaded: Callable[[], Sequence[Path]]) -> Path:
    """The folder of its tokenizer: beside it, where the publisher's scripts put it, or a downloaded model's."""
    for folder in _tokenizer_folders(path, downloaded):
        if all((folder / name).is_file() for name in _TOKENIZER):
            return folder
    name = _NAME.match(path.name)
    base = f"{name['base'].lower()}-chat" if name else "the model"
    raise BundleError(
        f"there is no tokenizer for {path}: put tokenizer.json and tokenizer_config.json of {base} into "
        f"{path.parent}, or get both with `bmqwen pull {path.stem} --source sophgo`"
    )


def _tokenizer_folders(path: Path, downloaded: Callable[[], Sequence[Path]]) -> Iterator[Path]:
    here = path.absolute().parent
    yield here
    yield here / "token_config"
    # models/CHIP/NAME.bmodel beside python/token_config
    yield from (parent / "python" / "token_config" for parent in list(here.parents)[:2])
    name = _NAME.match(path.name)
    if name:
        base, family = name["base"].lower(), name["family"].lower()
        alike = [folder for folder in downloaded() if model_name(folder).lower().startswith(family)]
        # The tokenizers of a family are the same; that of the same size is the first choice.
        yield from sorted(alike, key=lambda folder: not model_name(folder).lower().startswith(base))


def _token_count(folder: Path) -> int:
    """The highest token id of a tokenizer plus one."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        return max(Tokenizer.from_file(str(path)).get_vocab().values(), default=-1) + 1
    except Exception as error:  # tokenizers raises no narrower one
        raise BundleError(f"{path} cannot be read ({error}): download it again") from error
