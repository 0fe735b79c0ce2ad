"""The folder that a runtime loads: manifest, nets, tokenizer files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bmqwen.errors import BundleError, ConfigError, InputError
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import parse_config
from bmqwen.util.storage import file_sha256, path_lock, write_file
from bmqwen.util.text import first_line

MANIFEST = "bmqwen.json"
FORMAT = 1
# Files of a bundle of the kind "bmodel".
BMODEL_FILE = "model.bmodel"
# For the CPU: the graph, and the one for several sequences.
MODEL_FILE, BESIDE_FILE = "model.onnx", "model_beside.onnx"
EMBEDDING_FILE = "embedding.bin"


def part_file(number: int) -> str:
    """Return the name of the file that the chip of a number, counted from 1, gets of a divided model."""
    return f"model-{number}.bmodel"


# Files below this size are hashed at every load; the large ones by `verify_files` on request.
SMALL_FILE = 32 << 20

# In `details` of a bundle of that kind whose nets are the publisher's.
PUBLISHED_NETS = "published"

Kind = Literal["onnx", "bmodel"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file's size in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundlePart:
    """What one chip gets of a bundle of the kind "bmodel": the file of nets, their layers, bytes of device memory."""

    bmodel: Path
    config: ModelConfig
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """What the manifest says, and where the files are.

    Attributes:
        kind: which family of runtimes loads it.
        precision: how weights are stored: weights, group_size, lm_head, ...
        details: what only this kind has (nets of a bmodel, dialect of an ONNX graph).
        source: identity of the checkpoint it was made from.
        files: every file of the folder but the manifest.
        tokenizer: folder of the tokenizer, where that is not the bundle's.
    """

    folder: Path
    kind: Kind
    model: str
    config: ModelConfig
    precision: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    made_by: str = ""
    files: dict[str, FileEntry] = field(default_factory=dict)
    tokenizer: Path | None = None

    @property
    def bmodel(self) -> Path:
        """The file with the nets of a bundle of that kind. Raises BundleError where there is none."""
        return self.path(str(self.details.get("bmodel", BMODEL_FILE)))

    @property
    def parts(self) -> tuple[BundlePart, ...]:
        """What each chip gets, in the order of the layers; mostly one chip gets all.

        Memory is as the manifest says, else as large as the bmodel. Raises BundleError for a damaged manifest.
        """
        stated = self.details.get("parts")
        if stated is None:
            memory = self.details.get("device_bytes")
            if not isinstance(memory, int) or memory <= 0:
                memory = self.bmodel.stat().st_size
            return (BundlePart(self.bmodel, self.config, memory),)
        found, start = [], 0
        try:
            for entry in stated:
                layers = range(start, start := start + int(entry["layers"]))
                config = self.config.part(layers)
                found.append(BundlePart(self.path(str(entry["bmodel"])), config, int(entry["device_bytes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{self.folder}: the description of its parts is damaged ({error!r})"
            ) from error
        if start != self.config.num_hidden_layers or any(not part.config.layers for part in found):
            raise BundleError(f"{self.folder}: its parts do not make up a whole model: make the bundle again")
        return tuple(found)

    @property
    def is_published(self) -> bool:
        """Whether its nets are a published bmodel's, not bmqwen's."""
        return self.details.get("nets") == PUBLISHED_NETS

    @property
    def place(self) -> Path:
        """What names it: its folder, or the published bmodel that it stands for."""
        return self.bmodel if self.tokenizer else self.folder

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer and the chat template are."""
        return self.tokenizer or self.folder

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def path(self, name: str) -> Path:
        """Return the path of one of its files. Raises BundleError for a name that it does not have."""
        if name not in self.files:
            raise BundleError(f"the bundle {self.folder} has no file {name}")
        return self.folder / name

    def verify_files(self, *, everything: bool = True) -> None:
        """Compare sizes, and hashes of the small or of all files, with the manifest. Raises BundleError."""
        for name, entry in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BundleError(f"the bundle {self.folder} lacks its file {name}: make the bundle again")
            size = path.stat().st_size
            if size != entry.bytes:
                said = f"has {size:,} bytes, but the manifest says {entry.bytes:,}"
                raise BundleError(f"{path} {said}: make the bundle again")
            if (everything or size < SMALL_FILE) and file_sha256(path) != entry.sha256:
                raise _changed(path)


def is_bundle(path: Path) -> bool:
    """Tell whether a path is a folder with a manifest."""
    return (path / MANIFEST).is_file()


def write_manifest(bundle: Bundle) -> Bundle:
    """Hash the folder's files and write its manifest last, which completes the bundle."""
    names = sorted(p.name for p in bundle.folder.iterdir() if p.is_file() and p.name != MANIFEST)
    files = {n: FileEntry((bundle.folder / n).stat().st_size, file_sha256(bundle.folder / n)) for n in names}
    content = {
        "format": FORMAT,
        "kind": bundle.kind,
        "model": bundle.model,
        "config": bundle.config.to_dict(),
        "precision": bundle.precision,
        "details": bundle.details,
        "source": bundle.source,
        "made_by": bundle.made_by,
        "files": {name: asdict(entry) for name, entry in files.items()},
    }
    content["sha256"] = _digest(content)
    write_file(bundle.folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False).encode())
    return read_bundle(bundle.folder)


def record_details(bundle: Bundle, **details: Any) -> Bundle:
    """Write a manifest again with more details than it has. Raises StorageError."""
    with path_lock(bundle.folder):
        return write_manifest(replace(bundle, details={**bundle.details, **details}))


def read_bundle(folder: Path) -> Bundle:
    """Read and check a manifest (sizes of all files, hashes of the small ones).

    Raises BundleError: no manifest, a damaged one, one of another format, or files that differ from it.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise BundleError(
                f"{path} has format {content['format']}, this version of bmqwen reads format {FORMAT}: make it again"
            )
        bundle = Bundle(
            folder=folder,
            kind=content["kind"],
            model=str(content["model"]),
            config=parse_config(content["config"], str(path)),
            precision=dict(content["precision"]),
            details=dict(content["details"]),
            source=str(content["source"]),
            made_by=str(content["made_by"]),
            files={str(n): FileEntry(int(e["bytes"]), str(e["sha256"])) for n, e in content["files"].items()},
        )
    except FileNotFoundError as error:
        if not folder.exists():
            raise BundleError(f"{folder} does not exist: name the folder of a bundle") from error
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except ConfigError as error:
        raise BundleError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise BundleError(f"{path} is damaged ({said}): make the bundle again") from error
    if bundle.kind not in ("onnx", "bmodel"):
        raise BundleError(f"{path}: unknown kind {bundle.kind!r}")
    if any("/" in name or name.startswith(".") for name in bundle.files):
        raise BundleError(f"{path} names a file outside of the bundle")
    bundle.verify_files(everything=False)
    # The nets are compiled for what stands there: a constant that was edited would describe another model.
    if content.get("sha256", _digest(content)) != _digest(content):  # none in bundles of before
        raise _changed(path)
    return bundle


def _changed(path: Path) -> BundleError:
    return BundleError(f"{path} was changed after the bundle was made (its hash differs): make it again")


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest but for this value itself, in hex."""
    stated = json.loads(json.dumps({name: value for name, value in content.items() if name != "sha256"}))
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def reusable_bundle(folder: Path, source: str, *, replace: bool) -> Bundle | None:
    """Return the bundle at `folder` if it was made from `source`, an identity as in the manifest; None: make one.

    Raises InputError if something else is there; with `replace`, another bundle may be.
    """
    # Looked at first: a bundle appears complete, and another process may be about to put it there.
    exists = folder.exists()
    if is_bundle(folder):
        try:
            existing = read_bundle(folder)
        except BundleError:
            existing = None
        if existing is not None and existing.source == source:
            return existing
        if not replace:
            raise InputError(f"{folder} holds another bundle: remove it, name another folder or use --force")
    elif exists:
        raise InputError(f"{folder} exists and is not a bundle: name a new folder")
    return None
