"""LoRA adapters as PEFT writes them: a folder with adapter_config.json and adapter_model.safetensors."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import PUBLISHED_CONFIGS
from bmqwen.util.closing import Closing
from bmqwen.util.json_file import read_json_object
from bmqwen.util.paths import model_name
from bmqwen.weights.safetensors import SafetensorsWeights
from bmqwen.weights.stored import StoredWeights
from bmqwen.weights.weights import Grid, GridSource, Weights, require_rows

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Settings that make an adapter something else than W + scaling * B @ A.
_REFUSED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
)
# Ways to begin training that change the model's own weights as well.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_TABLES = ("lm_head.weight", "model.embed_tokens.weight")
_MERGE = "merge the two with peft (merge_and_unload, then save_pretrained) and name the merged model's folder"


class Adapter(Closing):
    """An open adapter. Close it, or use it in a `with` statement.

    Attributes:
        folder: where it is.
        base: the model that it says it was trained on; empty if it says nothing.
        low_rank: names of the weights that it changes, without ".weight".
        whole: the tensors that it replaces, and what its file calls them (PEFT's modules_to_save, and biases).
    """

    def __init__(self, folder: Path) -> None:
        """Open it. Raises CheckpointError: no adapter, or one of a kind that is not supported."""
        self.folder = folder
        if folder.suffix.lower() == ".gguf":
            raise CheckpointError(
                f"{folder} is an adapter in GGUF, which is unsupported: name the PEFT folder that it was converted from"
            )
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder} is not a LoRA adapter: it has no {name} (peft's save_pretrained writes both)"
                )
        self._values = read_json_object(folder / CONFIG_FILE, CheckpointError)
        self.base = str(self._values.get("base_model_name_or_path") or "")[:200]
        self._check_kind()
        self._file = SafetensorsWeights(folder / WEIGHTS_FILE)
        try:
            self.low_rank, self.whole = self._sort()
        except BaseException:
            self._file.close()
            raise

    @property
    def name(self) -> str:
        """The folder's name."""
        return model_name(self.folder)

    def change(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Compute rows [start, stop) of the change of a weight in `low_rank`: scaling * B @ A, in float32."""
        b = self._file.read_rows(self._part(name, "B"), start, stop)
        delta: NDArray[np.float32] = b @ self._file.read(self._part(name, "A"))
        return delta * np.float32(self.scaling(name))

    def scaling(self, name: str) -> float:
        """Return alpha / rank of a weight, or alpha / sqrt(rank) where the adapter is rank-stabilised
        (arXiv 2312.03732).
        """
        rank = self._file.shape(self._part(name, "A"))[0]
        alpha = self._of_pattern("alpha_pattern", name, self._values.get("lora_alpha", 8))
        return alpha / (math.sqrt(rank) if self._values.get("use_rslora") else rank)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the change of a weight in `low_rank`."""
        a, b = (self._file.shape(self._part(name, part)) for part in "AB")
        return b[0], a[1]

    def changes(self, config: ModelConfig) -> Weights:
        """Return the changes of weights, under the names that the network of a model has for them."""
        return StoredWeights(_Changes(self), config)

    def replacements(self, config: ModelConfig) -> Weights:
        """Return the tensors that replace the model's own, under the network's names."""
        return StoredWeights(_Replacements(self._file, self.whole), config)

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def check_base(self, config: ModelConfig, weights: Weights, name: str) -> None:
        """Raise CheckpointError unless it was trained on such a model, as far as names and shapes tell.

        Args:
            config: of the model.
            weights: of the model, as its network names them.
            name: of the model.
        """
        said, known = _published(Path(self.base).name), _published(name)
        if said and known and said != known:
            raise CheckpointError(f"{self.folder} is an adapter of {self.base}, and {name} is another model")
        stated = f" (it was trained on {self.base})" if self.base else ""
        names = weights.names()
        parts = (self.changes(config), self.replacements(config))
        shapes = {tensor: part.shape(tensor) for part in parts for tensor in sorted(part.names())}
        if not shapes:
            raise CheckpointError(
                f"{self.folder} changes only parts of {name} that bmqwen leaves aside, such as the one for pictures: "
                "answers would be the same, leave the adapter out"
            )
        for tensor, shape in shapes.items():
            if config.tie_word_embeddings and tensor in _TABLES:
                raise CheckpointError(
                    f"{self.folder} changes {tensor}, which {name} uses both for the input and for the output "
                    f"(tie_word_embeddings): {_MERGE}"
                )
            if tensor not in names:
                raise CheckpointError(
                    f"{self.folder} changes {tensor[:200]}, which {name} does not have{stated}: name its own base"
                )
            if weights.shape(tensor) != shape:
                raise CheckpointError(
                    f"{self.folder} changes {tensor} of shape {list(shape)}, but in {name} it has "
                    f"{list(weights.shape(tensor))}{stated}: name its own base"
                )

    def _check_kind(self) -> None:
        """Raise CheckpointError for a kind that is not supported."""
        kind = self._values.get("peft_type", "LORA")
        if kind != "LORA":
            raise CheckpointError(f"{self.folder} is an adapter of the kind {str(kind)[:40]}: {_MERGE}")
        for key in _REFUSED:
            if self._values.get(key):
                raise CheckpointError(f"{self.folder} has {key} set, which is unsupported: {_MERGE}")
        begun = self._values.get("init_lora_weights", True)
        if isinstance(begun, str) and begun.startswith(_CHANGED_BASES):
            raise CheckpointError(
                f"{self.folder} was trained with init_lora_weights = {begun[:40]!r}, which changes the model's own "
                f"weights too: {_MERGE}"
            )

    def _sort(self) -> tuple[frozenset[str], Mapping[str, str]]:
        """Return the names of changed weights, and those of replaced tensors. Raises CheckpointError."""
        low_rank, whole = set[str](), dict[str, str]()
        for stored in sorted(self._file.names()):
            name = stored.removeprefix(_PREFIX)
            found = re.fullmatch(r"(.+)\.lora_[AB]\.weight", name)
            if name == stored or (found is None and ".lora_" in name):
                raise CheckpointError(
                    f"{self.folder / WEIGHTS_FILE} holds {stored[:200]}, which is no LoRA of a weight: {_MERGE}"
                )
            if found is None:
                whole[name.replace(".base_layer.", ".")] = stored
            else:
                low_rank.add(found[1])
        if not low_rank:
            raise CheckpointError(f"{self.folder / WEIGHTS_FILE} holds no LoRA weights")
        for name in low_rank:
            a, b = (self._file.shape(self._part(name, part)) for part in "AB")
            rank = self._of_pattern("rank_pattern", name, self._values.get("r", 8))
            if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == rank:
                raise CheckpointError(
                    f"{self.folder / WEIGHTS_FILE}: the LoRA of {name} has shapes {list(a)} and {list(b)}, which "
                    f"do not fit rank {rank:g} of {CONFIG_FILE}; download the adapter again"
                )
            self.scaling(name)
        return frozenset(low_rank), whole

    def _part(self, name: str, part: str) -> str:
        return f"{_PREFIX}{name}.lora_{part}.weight"

    def _of_pattern(self, key: str, name: str, default: object) -> float:
        """Return the value that a table of patterns has for a module, else `default`; as PEFT finds it, by the end of
        its name.

        Raises CheckpointError for a pattern that is not a name: an adapter is data, and matching a regular expression
        may take forever.
        """
        table, value = self._values.get(key) or {}, default
        for pattern, stated in table.items() if isinstance(table, dict) else [("", "no table")]:
            plain = pattern.replace("\\.", ".").removesuffix("$")
            if not re.fullmatch(r"\^?[\w.]+", plain):
                raise CheckpointError(
                    f"{self.folder / CONFIG_FILE}: {key} has {pattern[:80]!r}, but only names of modules are "
                    f"supported: {_MERGE}"
                )
            if name == plain.removeprefix("^") or (plain[0] != "^" and name.endswith(f".{plain}")):
                value = stated
                break
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE}: a rank or alpha is {str(value)[:40]}, but must be a positive number"
            )
        return float(value)


class _Changes:
    """The changes of weights as `Weights`, under the names of the file that the adapter was trained on."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def names(self) -> frozenset[str]:
        return frozenset(f"{name}.weight" for name in self._adapter.low_rank)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._adapter.shape(name.removesuffix(".weight"))

    def read(self, name: str) -> NDArray[np.float32]:
        return self.read_rows(name, 0, self.shape(name)[0])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        require_rows(name, self.shape(name), start, stop)
        return self._adapter.change(name.removesuffix(".weight"), start, stop)


class _Replacements:
    """Tensors of an adapter's file as `Weights`, under the names of those that they replace."""

    def __init__(self, file: SafetensorsWeights, files: Mapping[str, str]) -> None:
        self._file, self._files = file, files

    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._files[name])

    def read(self, name: str) -> NDArray[np.float32]:
        return self._file.read(self._files[name])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        return self._file.read_rows(self._files[name], start, stop)


class MergedWeights:
    """A model's weights with an adapter's merged in: `Weights`, and a `GridSource` for what the adapter leaves alone.

    The sum is a float32 one, as in peft's merge_and_unload of a float32 model, before anything is rounded.
    """

    def __init__(self, weights: Weights, adapter: Adapter, config: ModelConfig) -> None:
        """`weights` has the names of the network; the adapter's may be those of any file of the model."""
        self._weights = weights
        self._changes, self._replacements = adapter.changes(config), adapter.replacements(config)
        self._changed, self._replaced = self._changes.names(), self._replacements.names()

    def names(self) -> frozenset[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def read(self, name: str) -> NDArray[np.float32]:
        if name in self._changed:
            return self.read_rows(name, 0, self.shape(name)[0])
        return self._source(name).read(name)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        values = self._source(name).read_rows(name, start, stop)
        return values + self._changes.read_rows(name, start, stop) if name in self._changed else values

    def grid_of(self, name: str) -> tuple[int, int] | None:
        """Return the stored grid of a weight that the adapter leaves alone."""
        alone = name not in self._changed | self._replaced
        return self._weights.grid_of(name) if alone and isinstance(self._weights, GridSource) else None

    def read_grid(self, name: str, start: int, stop: int) -> Grid:
        assert isinstance(self._weights, GridSource)
        return self._weights.read_grid(name, start, stop)

    def _source(self, name: str) -> Weights:
        """Where a tensor is read, before its change: PEFT may store one of the model's own that it changes besides."""
        return self._replacements if name in self._replaced else self._weights


def _published(name: str) -> str:
    """Return the hub id of the published model whose name a name begins with; empty for any other."""
    found = [repo for repo in PUBLISHED_CONFIGS if name.lower().startswith(repo.split("/")[1].lower())]
    return max(found, key=len, default="")
