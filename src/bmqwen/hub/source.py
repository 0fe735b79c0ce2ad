"""What a source offers for a model, which of it is wanted, and work on a thread of its own."""

import fnmatch
import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import Model
from bmqwen.util.paths import gguf_parts, gguf_variant, is_model_gguf, whole_gguf
from bmqwen.util.progress import Progress, Report

if TYPE_CHECKING:
    from hashlib import _Hash

    from bmqwen.hub.cache import Store

T = TypeVar("T")

WEIGHTS = "*.safetensors"
# How an embedding model pools; all else that is wanted lies in a repository's top folder.
_POOLING = "1_Pooling/config.json"
_WANTED = (
    _POOLING,
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "*.safetensors.index.json",
)
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class UnreachableError(DownloadError):
    """A source gave no answer at all."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at a source, by its path in the repository.

    Attributes:
        size: bytes; 0 where the source does not say.
        sha256: of the content, where the source says it.
        git_sha1: Git's id of the content, what hubs know of small files.
    """

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def hasher(self) -> "_Hash":
        """Return a fresh hash of the kind that `verified_by` wants."""
        if self.sha256 is None and self.git_sha1 is not None:
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return hashlib.sha256()

    def verified_by(self, hasher: "_Hash") -> bool:
        """Whether the content that went through the hash is the right one (true where no hash is known)."""
        return hasher.hexdigest() == (self.sha256 or self.git_sha1 or hasher.hexdigest())


@dataclass(frozen=True)
class Release:
    """The files wanted of a model at one source, at one state.

    Attributes:
        revision: what pins the state, usable in a file name.
        scratch: bytes that the download needs beside them.
    """

    model: Model
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    scratch: int = 0

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Source:
    """A place that models come from."""

    name: str
    """What options and `Model.repos` call it."""
    title: str
    """What people call it."""
    mirror = ""
    """The environment variable that names another server."""
    store: "Store | None" = None
    """What keeps its models; None for our own cache."""

    def offers(self, model: Model) -> bool:
        """Whether it makes sense to ask for the model here; decided without network."""
        return self.name in model.repos

    def find(self, model: Model, patience: float) -> Release:
        """Look up a model, within `patience` seconds. May be called on another thread.

        Raises:
            InputError: the source answered, and has no such model or none in a usable form.
            UnreachableError: the source could not be reached.
            DownloadError: its answer makes no sense.
            MissingDependencyError: a package or program is not installed.
        """
        raise NotImplementedError

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """Bring one file of what `find` returned to `target`, resuming what an earlier run left there.

        Args:
            target: path of the unfinished file; complete and verified when this returns.
            report: receives the number of bytes of the file that are there.
            progress: for remarks.

        Raises:
            DownloadError: the network failed, or the content is wrong (it is deleted then).
            StorageError: the file could not be written.
            MissingDependencyError: a package or program is not installed.
        """
        raise NotImplementedError


def is_looked_at(path: str) -> bool:
    """Whether a file of a repository may be wanted, by its path there: others could lead out of a folder, too."""
    return path == _POOLING or not ("/" in path or "\\" in path)


def choose(model: Model, files: Iterable[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """Return those of a repository's files that are needed: configuration, tokenizer, safetensors; or one model's GGUF.

    `files` are those that `is_looked_at`, and `where` names it in messages.

    Raises:
        InputError: no usable weights, or several GGUF files to choose from.
    """
    known = {file.name: file for file in files}
    if model.file is not None:
        if model.file not in known:
            raise InputError(f"{where} has no file {model.file}")
        return (known[model.file],)
    # Of a model that was cut into several files the first one stands for all; where it is whole as well, that one.
    models = filter(is_model_gguf, sorted(fnmatch.filter(known, "*.gguf")))
    first = {whole_gguf(name): gguf_parts(name)[0] for name in models}
    ggufs = sorted(first.values())
    weights = fnmatch.filter(known, "model" + WEIGHTS) or fnmatch.filter(known, WEIGHTS)
    if model.variant is not None or (ggufs and not weights):
        wanted = (model.variant or "").lower()
        fitting = [name for name in ggufs if wanted in name.lower()]
        exact = [name for name in fitting if gguf_variant(name).lower() == wanted]
        fitting = exact if len(exact) == 1 else fitting  # q2_k is part of q2_k_l as well
        if len(fitting) != 1:
            choice = ", ".join(fitting or ggufs) or "no GGUF file at all"
            raise InputError(f"{where} has {choice}: name one by a part of its name, as in owner/name:q4_k_m")
        parts = gguf_parts(fitting[0])
        if missing := next((name for name in parts if name not in known), None):
            raise InputError(
                f"{where} lacks {missing}, one of {len(parts)} parts of a model: choose another file"
            )
        return tuple(known[name] for name in parts)
    if "adapter_config.json" in known and not fnmatch.filter(known, "model" + WEIGHTS):
        raise InputError(
            f"{where} is an adapter (LoRA) of a model, not a model: download it yourself, then name the model, and the "
            "adapter's folder with --adapter"
        )
    if not weights:
        if any(fnmatch.filter(known, pattern) for pattern in _PICKLED):
            raise InputError(
                f"{where} has only pickled weights, which can run code and are not read: "
                "choose a repository with safetensors, or convert it"
            )
        raise InputError(f"{where} has no weights (*.safetensors or *.gguf)")
    if "config.json" not in known:
        raise InputError(f"{where} has no config.json")
    others = [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED)]
    return tuple(known[name] for name in (*sorted(others), *sorted(weights)))


def on_thread(work: Callable[[], T]) -> Future[T]:
    """Do something on a thread that nobody has to wait for.

    A firewall can make even the look-up of a host's name hang, which no timeout of a client library bounds.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
