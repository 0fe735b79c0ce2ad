"""A model on disk: a Hugging Face folder or a GGUF file, opened and checked."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.model.config import ModelConfig
from bmqwen.model.packing import read_packing
from bmqwen.model.registry import parse_config
from bmqwen.util.closing import Closing
from bmqwen.util.json_file import parse_json_object, read_json_object
from bmqwen.util.paths import gguf_parts, is_model_gguf, model_name
from bmqwen.util.text import counted
from bmqwen.weights.adapter import CONFIG_FILE, Adapter, MergedWeights
from bmqwen.weights.gguf import GgufWeights, gguf_config
from bmqwen.weights.gguf_file import GgufFile
from bmqwen.weights.gguf_tokenizer import gguf_tokenizer_files
from bmqwen.weights.packed import PackedWeights
from bmqwen.weights.pooling import check_ranking, folder_config, gguf_pooling
from bmqwen.weights.raw_file import RawFile
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.stored import StoredWeights
from bmqwen.weights.weights import Weights, check_layout

_TOKENIZER = "tokenizer.json"
# What sentence-transformers writes before queries.
PROMPTS_FILE = "config_sentence_transformers.json"
_TOKENIZER_FILES = (
    _TOKENIZER,
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    PROMPTS_FILE,
)
_MOST_TOKENIZER_BYTES = 64 << 20
# Files of a folder that decide what a model is, and how much of each is compared beside its size and time.
_MODEL_FILES = (".json", ".jinja", ".safetensors")
_BEGINNING = 1 << 16
_HEAD, _TABLES = "lm_head.weight", ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight")
# Values of a table and a head that are compared at a time.
_COMPARED = 4 << 20
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


Reader = SafetensorsWeights | PackedWeights | GgufWeights


@dataclass(frozen=True)
class Checkpoint(Closing):
    """An open model. Close it, or use it in a `with` statement.

    Attributes:
        path: the folder or file.
        config: its configuration.
        weights: exactly the tensors that the configuration demands, in the shapes it demands; safe to
            read from several threads.
    """

    path: Path
    config: ModelConfig
    weights: Weights
    _reader: Reader
    _named: Reader | StoredWeights
    _adapter: Adapter | None = None

    @property
    def name(self) -> str:
        """Name of the folder or file, with that of the adapter: "Qwen3-0.6B+my-adapter"."""
        return full_name(self.path, self.adapter)

    @property
    def identity(self) -> str:
        """Fingerprint of its content, as `identity`."""
        return identity(self.path, self.adapter)

    @property
    def adapter(self) -> Path | None:
        """Folder of the LoRA adapter that is merged into the weights."""
        return self._adapter.folder if self._adapter else None

    @property
    def parameters(self) -> int:
        """Number of values in all tensors; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.config.network.shapes().values())

    @property
    def note(self) -> str:
        """What a user should know of how it is read; mostly nothing."""
        count = self._named.left_aside if isinstance(self._named, StoredWeights) else 0
        remarks = (
            [f"used for text only, {counted(count, 'tensor')} of other parts left aside"] if count else []
        )
        remarks += self._reader.remarks if isinstance(self._reader, PackedWeights) else []
        return f"{self.name}: {'; '.join(remarks)}" if remarks else ""

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files of weights."""
        return self._reader.bytes_on_disk

    @property
    def precision(self) -> str:
        """How most values are stored, for people: "BF16", "Q4_K_M"."""
        if stated := self._reader.stated_precision:
            return stated
        counts: Counter[str] = Counter()
        for name, shape in self.config.network.shapes().items():
            counts[self._named.dtype(name)] += math.prod(shape)
        return counts.most_common(1)[0][0]

    @property
    def rounded_by(self) -> str | None:
        """How a stored grid was found, for people; None: there is none."""
        if not isinstance(self._reader, PackedWeights):
            return None
        return self._reader.packing.made_by or f"{self._reader.packing.title}, as stored"

    @property
    def made_here(self) -> bool:
        """Whether its grid was found by `bmqwen quantize`."""
        return isinstance(self._reader, PackedWeights) and self._reader.packing.made_by is not None

    @property
    def largest_activation(self) -> float:
        """Greatest absolute value that the model computed when it was quantised; 0: not known."""
        return self._reader.packing.largest_activation if isinstance(self._reader, PackedWeights) else 0.0

    def tokenizer_files(self) -> dict[str, bytes]:
        """Return tokenizer.json and, where there are any, tokenizer_config.json, generation_config.json,
        chat_template.jinja and config_sentence_transformers.json: content by file name.

        Raises:
            CheckpointError: there is no tokenizer, or a file is damaged.
            ConfigError: a GGUF file's tokenizer is of an unsupported kind.
        """
        if isinstance(self._reader, GgufWeights):
            return gguf_tokenizer_files(self._reader.file)
        files: dict[str, bytes] = {}
        for path in self._tokenizer_paths():
            with RawFile(path) as file:
                if file.size > _MOST_TOKENIZER_BYTES:
                    raise CheckpointError(f"{path} has {file.size:,} bytes, too many for such a file")
                files[path.name] = file.read(0, file.size).tobytes()
            if path.suffix == ".json":
                parse_json_object(files[path.name], str(path), CheckpointError)
        if _TOKENIZER not in files:
            raise CheckpointError(f"{self.path} has no {_TOKENIZER}; download that file of the model as well")
        return files

    def close(self) -> None:
        """Close the files. May be called twice."""
        self._reader.close()
        if self._adapter is not None:
            self._adapter.close()

    def _tokenizer_paths(self) -> list[Path]:
        """The tokenizer's files beside the weights; a GGUF file has it inside."""
        if isinstance(self._reader, GgufWeights):
            return []
        return [self.path / name for name in _TOKENIZER_FILES if (self.path / name).is_file()]


def full_name(path: Path, adapter: Path | None) -> str:
    """Return what to call the model at a path with an adapter merged in, or without one."""
    name = model_name(path)
    return f"{name.removesuffix('.gguf')}+{model_name(adapter)}" if adapter else name


def identity(path: Path, adapter: Path | None = None) -> str:
    """Return a fingerprint of a model, with the adapter in a folder, that changes with its content (64 hexadecimal
    digits).

    It is cheap, so that a conversion is found again without opening the model: names, sizes, times and beginnings of
    its files. `path` is as for `open_checkpoint`. Raises CheckpointError for files that cannot be read.
    """
    path = checkpoint_path(path)
    files = [path.with_name(name) for name in gguf_parts(path.name)]
    if path.is_dir():
        files = _model_files(path)
    if adapter is not None:
        files += _model_files(adapter)
    prints = []
    for name in files:
        with RawFile(name) as file:
            beginning = hashlib.sha256(file.read(0, min(file.size, _BEGINNING)).tobytes()).hexdigest()
            prints.append([*file.fingerprint(), beginning])
    return hashlib.sha256(json.dumps(prints).encode()).hexdigest()


def _model_files(folder: Path) -> list[Path]:
    """List the files of a folder that decide what is in it. Raises CheckpointError if there is no such folder."""
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in _MODEL_FILES and file.is_file())
    except OSError as error:
        raise CheckpointError(f"{str(folder)[:200]} cannot be read: {error.strerror or error}") from None


def checkpoint_path(path: Path) -> Path:
    """Return the folder or GGUF file that a path means: a folder of nothing but one GGUF file means that file.

    Of a model in several GGUF files it is the first one.

    Raises CheckpointError for a folder without weights, or that cannot be read.
    """
    try:
        file = _weights_file(path) if path.is_dir() else path
    except OSError as error:  # no permission, a name that is too long
        raise CheckpointError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from None
    return file.with_name(gguf_parts(file.name)[0]) if file.suffix.lower() == ".gguf" else path


def is_packed(path: Path) -> bool:
    """Return whether a path, as for `open_checkpoint`, is a folder whose configuration names packed weights.

    Raises ConfigError where that is damaged or of an unsupported kind.
    """
    source = path / "config.json"
    return (
        source.is_file()
        and read_packing(read_json_object(source, ConfigError), str(source), path) is not None
    )


def open_checkpoint(path: Path, adapter: Path | None = None) -> Checkpoint:
    """Open a Hugging Face folder (config.json and safetensors) or a GGUF file. Weights are not read yet.

    With `adapter`, the folder of a LoRA adapter, its weights are merged in as they are read.

    Raises:
        CheckpointError: nothing there, pickled weights only, a damaged file, tensors that are not
            those of the configuration, or an adapter that is damaged, of another model or of an unsupported kind.
        ConfigError: the configuration is damaged or describes something unsupported.
        MissingDependencyError: a GGUF file, and no `gguf` package.
    """
    path = checkpoint_path(path)
    try:
        if path.is_dir():
            return _open_folder(path, adapter)
        if path.suffix.lower() == ".gguf":
            return _open_gguf(path, adapter)
        exists = path.exists()
    except OSError as error:  # no permission, a name that is too long
        raise CheckpointError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from None
    if exists and path.suffix.lower() == ".bmodel":
        raise CheckpointError(
            f"{path} is compiled already, for as many chips and layers as it has: name the model that it was made "
            "from, its folder or GGUF file"
        )
    if not exists:
        raise CheckpointError(f"{path} does not exist; name a model's folder or GGUF file")
    raise CheckpointError(
        f"{path} is neither a folder nor a *.gguf file; name the folder that holds the model"
    )


def _open_folder(folder: Path, adapter_folder: Path | None) -> Checkpoint:
    file = _weights_file(folder)
    source = folder / "config.json"
    values = read_json_object(source, ConfigError)
    config = folder_config(parse_config(values, str(source)), folder)
    packing = read_packing(values, str(source), folder)
    stored = SafetensorsWeights(file)
    if config.tie_word_embeddings and _is_last_of_its_own(stored, config):
        config = replace(config, tie_word_embeddings=False)
    weights = PackedWeights(stored, packing, config.network.shapes()) if packing else stored
    if packing is None:
        _require_plain(stored, source)
    # Models that were saved without their head have shorter names.
    as_named = config.linear is None and "embed_tokens.weight" not in weights.names()
    named = weights if as_named else StoredWeights(weights, config)
    check_layout(config, named, file, str(source))
    adapter, merged = _merge(adapter_folder, named, config, folder)
    return Checkpoint(folder, config, merged, weights, named, adapter)


def _is_last_of_its_own(weights: SafetensorsWeights, config: ModelConfig) -> bool:
    """Whether a head is stored that differs from the table. transformers uses it then, whatever the flag says."""
    names = weights.names()
    table = next((name for name in _TABLES if name in names), "")
    if not table or _HEAD not in names or weights.shape(_HEAD) != weights.shape(table):
        return False
    step = max(1, _COMPARED // config.hidden_size)
    for start in range(0, config.vocab_size, step):
        stop = min(start + step, config.vocab_size)
        if (weights.read_rows(_HEAD, start, stop) != weights.read_rows(table, start, stop)).any():
            return True
    return False


def _require_plain(weights: SafetensorsWeights, source: Path) -> None:
    """Raise CheckpointError for weights whose configuration should say how they are packed, and does not."""
    packed = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")
    if any(name.endswith(packed) for name in weights.names()):
        raise CheckpointError(
            f"{weights.path} holds packed weights, but {source} has no quantization_config that says how they are "
            "packed: download config.json as it was published, and quantize_config.json (GPTQ) or quant_config.json "
            "(AWQ) where there is one"
        )


def _open_gguf(path: Path, adapter_folder: Path | None) -> Checkpoint:
    file = GgufFile(path)
    config = gguf_pooling(gguf_config(file), file)
    weights = GgufWeights(file, config)
    check_layout(config, weights, path, "its metadata")
    check_ranking(weights, config)
    adapter, merged = _merge(adapter_folder, weights, config, path)
    return Checkpoint(path, config, merged, weights, weights, adapter)


def _merge(
    folder: Path | None, weights: Weights, config: ModelConfig, path: Path
) -> tuple[Adapter | None, Weights]:
    """Open the adapter in a folder, if there is one, and merge it into the weights of the model at a path."""
    if folder is None:
        return None, weights
    adapter = Adapter(folder)
    try:
        adapter.check_base(config, weights, model_name(path))
    except BaseException:
        adapter.close()
        raise
    return adapter, MergedWeights(weights, adapter, config)


def _weights_file(folder: Path) -> Path:
    """The one file of weights or index in a folder."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    adapter = folder / CONFIG_FILE
    if adapter.is_file():  # it holds what was trained on top of a model, in place of one
        stated = read_json_object(adapter, CheckpointError)
        kind = "a LoRA adapter" if stated.get("peft_type", "LORA") == "LORA" else "an adapter"
        base = str(stated.get("base_model_name_or_path") or "another model")[:200]
        raise CheckpointError(
            f"{folder} holds {kind} of {base}, not a model: name that model, and this folder with --adapter"
        )
    fixes = {
        "*.safetensors": " and no index; download model.safetensors.index.json as well",
        "*.gguf": "; name one of them",
    }
    for pattern, fix in fixes.items():
        files = (path.with_name(gguf_parts(path.name)[0]) for path in folder.glob(pattern))
        found = sorted({path for path in files if is_model_gguf(path.name)})
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(f"{folder} holds {len(found)} {pattern} files{fix}")
    pickles = [file.name for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0]} only, a pickle, which could run any program; get the "
            "model's safetensors files, or convert it where you trust it with transformers' save_pretrained"
        )
    raise CheckpointError(f"{folder} holds no weights: expected *.safetensors or *.gguf")
