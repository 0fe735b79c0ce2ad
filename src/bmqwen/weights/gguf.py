"""Weights in a GGUF file, under their Hugging Face names and dequantised."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.model.architecture import Architecture
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import gguf_architecture, parse_config
from bmqwen.weights.gguf_file import GgufFile, GgufTensor, Value, gguf_package
from bmqwen.weights.weights import require_finite, require_rows

# Rows of the head that a reranker's scores come from, beside the head itself.
RANKING = "cls.output.weight"
# Values dequantised at once: their temporary arrays stay within the processor's cache.
_PIECE_VALUES = 1 << 16
_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}


def gguf_config(file: GgufFile) -> ModelConfig:
    """Read the model's configuration from the metadata. Raises ConfigError."""
    source = str(file.path)
    architecture = gguf_architecture(file.metadata.get("general.architecture"), source)
    if file.metadata.get("general.type") == "adapter":
        raise CheckpointError(
            f"{source} holds an adapter (LoRA), not a model: name that model, and with --adapter the PEFT folder that "
            "this file was converted from"
        )
    table = file.tensors.get("token_embd.weight")
    if table is None:
        raise CheckpointError(f"{source} has no tensor token_embd.weight")
    if "rope_freqs.weight" in file.tensors:
        raise ConfigError(f"{source}: rope_freqs.weight is there, but scaled RoPE is unsupported")
    # Of NVFP4, which has another scale for a whole tensor.
    if scale := next((name for name in sorted(file.tensors) if name.endswith(".scale")), None):
        raise ConfigError(
            f"{source} has scales beside its weights ({scale[:80]}), which are unsupported: use the file of another "
            "quantisation, such as Q4_K_M"
        )
    values = _config_values(file.metadata, architecture, source)
    values |= {"vocab_size": table.shape[0], "tie_word_embeddings": "output.weight" not in file.tensors}
    return parse_config(values, source)


def _config_values(
    metadata: Mapping[str, Value], architecture: type[Architecture], source: str
) -> dict[str, object]:
    """The metadata in the words of config.json."""
    arch, keys = architecture.gguf_name, {**_KEYS, **architecture.gguf_keys}
    values: dict[str, object] = {ours: metadata.get(f"{arch}.{theirs}") for ours, theirs in keys.items()}
    scaling = metadata.get(f"{arch}.rope.scaling.type", "none")
    values |= {
        "architectures": [architecture.class_name],
        "num_key_value_heads": metadata.get(f"{arch}.attention.head_count_kv", values["num_attention_heads"]),
        "rms_norm_eps": _shortest(metadata.get(f"{arch}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(metadata.get(f"{arch}.rope.freq_base", 10000.0)),
        "is_causal": metadata.get(f"{arch}.attention.causal"),
        "rope_scaling": None if scaling == "none" else _rope_scaling(metadata, arch, scaling),
    }
    head_dim, hidden, heads = (values[key] for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if head_dim is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        head_dim = hidden // heads
    for key in {"rope.dimension_count", "attention.value_length"} - set(keys.values()):
        value = metadata.get(f"{arch}.{key}", head_dim)
        if value != head_dim:
            raise ConfigError(f"{source}: {arch}.{key} = {str(value)[:40]} differs from a head's {head_dim}")
    experts = metadata.get(f"{arch}.expert_count", 0)
    if experts != 0:
        raise ConfigError(f"{source}: {arch}.expert_count = {str(experts)[:40]}, but experts are unsupported")
    return architecture.gguf_values(values)


def _rope_scaling(metadata: Mapping[str, Value], arch: str, kind: Value) -> dict[str, object]:
    """The scaling of RoPE in the words of config.json."""
    names = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
    given = {ours: metadata.get(f"{arch}.rope.scaling.{theirs}") for ours, theirs in names.items()}
    return {"rope_type": kind} | {key: _shortest(value) for key, value in given.items() if value is not None}


def _shortest(value: object) -> object:
    """A float32 as the float with the fewest digits that means it: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


class GgufWeights:
    """The tensors of a GGUF file, which is closed with them. Keeps the `Weights` protocol."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self.file = file
        self._gguf = gguf_package()
        network = config.network
        self._wanted = {tensor.name: tensor for tensor in network.tensors() if tensor.gguf in file.tensors}
        self._tensors = {name: file.tensors[tensor.gguf] for name, tensor in self._wanted.items()}
        self._orders = {
            name: order for name, tensor in self._wanted.items() if (order := network.gguf_order(tensor))
        }
        taken = {tensor.gguf for tensor in self._wanted.values()}
        layers = file.metadata.get(f"{config.architecture.gguf_name}.block_count")
        # Blocks that predict further tokens follow the layers.
        further = range(config.num_hidden_layers, layers if isinstance(layers, int) else 0)
        aside = tuple(f"blk.{block}." for block in further)
        others = file.tensors.keys() - taken
        self._tensors |= {name: file.tensors[name] for name in others if not name.startswith(aside)}

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors.keys() - {RANKING})

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._find(name).shape
        if name in self._orders and self._orders[name][0] == 0:
            shape = (len(self._orders[name][1]), *shape[1:])
        wanted = self._wanted[name].shape if name in self._wanted else shape
        # An axis of length 1 is left out.
        return wanted if tuple(size for size in wanted if size > 1) == shape else shape

    def dtype(self, name: str) -> str:
        """Return GGUF's name of the type: "Q4_K". Raises CheckpointError for an unknown name."""
        return self._find(name).type_name

    def read(self, name: str) -> NDArray[np.float32]:
        shape = self.shape(name)
        if len(shape) == 2:
            return self.read_rows(name, 0, shape[0])
        tensor = self._find(name)
        values = self._rows(tensor, 0, tensor.bytes // tensor.row_bytes).reshape(tensor.shape)
        if name in self._orders:
            values = values[self._orders[name][1]]
        if name in self._wanted and self._wanted[name].negated_exp:
            with np.errstate(all="ignore"):  # of a damaged value; `require_finite` reports it
                values = np.log(-values)
        return require_finite(values, name, self.file.path).reshape(shape)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        tensor = self._find(name)
        require_rows(name, self.shape(name), start, stop)
        axis, order = self._orders.get(name, (None, np.arange(0)))
        if axis == 0 and start < stop:
            wanted = order[start:stop]
            first = int(wanted.min())
            rows = self._rows(tensor, first, int(wanted.max()) + 1)[wanted - first]
        else:
            rows = self._rows(tensor, start, stop)
        return require_finite(rows[:, order] if axis == 1 else rows, name, self.file.path)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the file, or of all parts."""
        return self.file.size

    @property
    def stated_precision(self) -> str | None:
        """What the file calls its mixture of types: "Q4_K_M"; None: nothing."""
        number = self.file.metadata.get("general.file_type")
        kinds = {int(kind): str(kind.name) for kind in self._gguf.LlamaFileType}
        name = kinds.get(number, "") if isinstance(number, int) else ""
        return name.partition("_")[2] if name.startswith(("MOSTLY_", "ALL_")) else None

    def close(self) -> None:
        """Close the file. May be called twice."""
        self.file.close()

    def _find(self, name: str) -> GgufTensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.file.path} has no tensor {name}") from None

    def _rows(self, tensor: GgufTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) in the file's order, float32 [stop - start, columns]."""
        columns = tensor.shape[-1]
        out = np.empty((stop - start, columns), np.float32)
        kind = self._gguf.GGMLQuantizationType[tensor.type_name]
        step = max(1, _PIECE_VALUES // columns)
        raw = tensor.raw.read(tensor.offset + start * tensor.row_bytes, (stop - start) * tensor.row_bytes)
        raw = raw.reshape(stop - start, tensor.row_bytes)
        with np.errstate(all="ignore"):  # damaged scales overflow; `require_finite` reports them
            for row in range(0, stop - start, step):
                piece = raw[row : row + step]
                # One long row, since the package works through 16 rows at a time.
                values = self._gguf.quants.dequantize(piece.reshape(1, -1), kind)
                out[row : row + step] = values.reshape(piece.shape[0], columns)
        return out
