"""Tiny random checkpoints of the Qwen1.5, Qwen2.5, Qwen3 and Llama kinds, with a small real tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bmqwen.model.config import LinearAttention, ModelConfig
from bmqwen.model.llama import Llama
from bmqwen.model.qwen2 import Qwen2
from bmqwen.model.qwen3 import Qwen3
from bmqwen.model.qwen3_5 import Qwen35

Kind = Literal["qwen1.5", "qwen2.5", "qwen3", "qwen3.5", "llama"]

_ARCHITECTURES = {"qwen1.5": Qwen2, "qwen2.5": Qwen2, "qwen3": Qwen3, "qwen3.5": Qwen35, "llama": Llama}

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# The template of Qwen1.5's chat models.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = ("user", "system", "assistant", "hello", " the", " and", " you", "ing", "你好", "。", "  ", "\n\n")


def tiny_config(
    kind: Kind = "qwen2.5",
    *,
    layers: int = 2,
    hidden_size: int = 64,
    intermediate_size: int = 128,
    heads: int = 4,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    vocab_size: int = 320,
    tied: bool | None = None,
    max_position_embeddings: int = 256,
) -> ModelConfig:
    """A small configuration: Qwen1.5 = multi-head, untied; Qwen2.5 = grouped-query, tied; Llama = the
    same without biases; Qwen3 = that with head norms and heads wider than hidden_size / heads; Qwen3.5 = that with all
    layers but the last linear.
    `vocab_size` is a little larger than the tokenizer's (as in the real ones).
    """
    grouped = kind != "qwen1.5"
    linear: dict[str, Any] = {}
    if kind == "qwen3.5":
        linear = {
            "layer_types": (*["linear_attention"] * (layers - 1), "full_attention"),
            "linear": LinearAttention(2, 4, 16, 16, 4),
            "partial_rotary_factor": 0.25,
        }
    return ModelConfig(
        architecture=_ARCHITECTURES[kind],
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads if kv_heads is not None else (heads // 2 if grouped else heads),
        head_dim=head_dim or {"qwen3": 2, "qwen3.5": 4}.get(kind, 1) * (hidden_size // heads),
        rms_norm_eps=1e-6,
        rope_theta=1000000.0 if kind == "qwen2.5" else 10000.0,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=grouped if tied is None else tied,
        **linear,
    )


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Every tensor of `config`, float32: norms around 1, matrices such that logits spread by about 1."""
    rng = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in config.network.shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            weights[name] = np.float32(1.0) + np.float32(0.1) * values
        elif name.endswith((".bias", "A_log", "dt_bias")):
            weights[name] = np.float32(0.1) * values
        else:
            weights[name] = values * np.float32(shape[-1] ** -0.5)
    return weights


def as_stored(config: ModelConfig, weights: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tensors of the network as Hugging Face's files have them."""
    tensors = {tensor.name: tensor for tensor in config.network.tensors()}
    stored = {name: values for name, values in weights.items() if name not in tensors}
    for name, tensor in tensors.items():
        if name not in weights:
            continue
        values = weights[name] - np.float32(tensor.plus)
        if tensor.half == 1:
            halves = (
                part.reshape(-1, 1, config.head_dim, part.shape[-1])
                for part in (stored[tensor.stored], values)
            )
            values = np.concatenate(list(halves), axis=1).reshape(-1, values.shape[-1])
        stored[tensor.stored or tensor.name] = values
    return stored


def as_qwen35_gguf(
    config: ModelConfig, weights: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Qwen3.5's tensors as llama.cpp's converter stores them, under Hugging Face's names (conversion/qwen.py): value
    heads tiled over key heads, norms as they are applied, -exp(A_log).
    """
    one = config.linear_sizes
    keys, each = one.linear_num_key_heads, one.linear_num_value_heads // one.linear_num_key_heads

    def tiled(values: NDArray[np.float32], axis: int, size: int) -> NDArray[np.float32]:
        shape = values.shape
        parts = values.reshape(*shape[:axis], keys, each, size, *shape[axis + 1 :])
        return parts.swapaxes(axis, axis + 1).reshape(shape)

    def in_file(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        place, wide = name.rpartition("linear_attn.")[2], one.linear_value_head_dim
        if place.startswith(("in_proj_qkv", "conv1d")):
            values = values.squeeze()
            return np.concatenate([values[: 2 * one.key_dim], tiled(values[2 * one.key_dim :], 0, wide)])
        if place.startswith(("in_proj_a", "in_proj_b", "A_log", "dt_bias")):
            values = tiled(values, 0, 1)
            return -np.exp(values) if place == "A_log" else values
        if place.startswith(("in_proj_z", "out_proj")):
            return tiled(values, int(place.startswith("out")), wide)
        return values

    # The query heads with their gates are one tensor, as in Hugging Face's files; the norms are not less one here.
    queries = as_stored(config, weights)
    gates = tuple(f".{layer}.self_attn.gate_proj.weight" for layer in range(config.num_hidden_layers))
    whole = {name: values for name, values in weights.items() if not name.endswith(gates)}
    whole |= {name: queries[name] for name in whole if name.endswith("q_proj.weight")}
    return {name.replace("dt_bias", "dt_proj.bias"): in_file(name, values) for name, values in whole.items()}


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 (ties to even)."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Those bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_checkpoint(
    folder: Path,
    config: ModelConfig,
    seed: int = 0,
    shards: int = 1,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    with_tokenizer: bool = True,
    weights: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write config.json, safetensors (with an index where there are several shards) and tokenizer files.

    `weights` replaces the random ones of `seed`. Returns `folder`, which is created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config.to_dict() | {"torch_dtype": dtype})
    tensors = as_stored(config, random_weights(config, seed) if weights is None else weights)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
    else:
        names = list(tensors)
        weight_map: dict[str, str] = {}
        for shard in range(shards):
            part = names[shard::shards]
            file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            write_safetensors(folder / file_name, {name: tensors[name] for name in part}, dtype)
            weight_map |= dict.fromkeys(part, file_name)
        size = sum(tensor.size for tensor in tensors.values()) * (4 if dtype == "float32" else 2)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    if with_tokenizer:
        write_tokenizer(folder)
    return folder


def write_safetensors(
    path: Path, tensors: dict[str, NDArray[np.float32]], dtype: Literal["float32", "float16", "bfloat16"]
) -> None:
    """One safetensors file with all tensors in `dtype`: a length, a JSON header, then the bytes."""
    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        blob = (to_bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)).tobytes()
        end = offset + len(blob)
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [offset, end]}
        blobs.append(blob)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def tiny_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE: all 256 bytes and a few words, without special tokens."""
    from tokenizers import pre_tokenizers

    vocab = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        symbols = encode.pre_tokenize_str(word)[0][0]
        left = symbols[0]
        for right in symbols[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
                vocab[left + right] = len(vocab)
            left += right
    return vocab, merges


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json as Qwen1.5's chat models have them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab, merges = tiny_vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    end_of_text, _, end_of_turn = (tokenizer.token_to_id(token) for token in SPECIAL_TOKENS)
    config = {
        "chat_template": CHAT_TEMPLATE,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "model_max_length": 32768,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": [end_of_turn, end_of_text], "pad_token_id": end_of_text},
    )


def write_gguf(
    path: Path,
    config: ModelConfig,
    seed: int = 0,
    dtype: str = "F32",
    with_tokenizer: bool = True,
    weights: dict[str, NDArray[np.float32]] | None = None,
    values: Mapping[str, str | int | float | list[str] | None] | None = None,
    parts: int = 1,
    token_types: Literal["right", "none", "normal"] = "right",
) -> Path:
    """Write a GGUF file, or several parts of one, as llama.cpp's converter does; `values` adds or replaces metadata.

    `dtype` is a GGUF type that the `gguf` package can write (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0,
    Q5_1) and goes for matrices; vectors stay F32. A value of None is left out. Returns `path`.
    """
    import gguf

    arch = config.architecture.gguf_name
    each = -(-len(config.network.shapes()) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=each)
    metadata: dict[str, str | int | float] = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": config.rope_theta,
    }
    if (one := config.linear) is not None:
        metadata |= {
            f"{arch}.ssm.conv_kernel": one.linear_conv_kernel_dim,
            f"{arch}.ssm.state_size": one.linear_key_head_dim,
            f"{arch}.ssm.group_count": one.linear_num_key_heads,
            f"{arch}.ssm.time_step_rank": one.linear_num_value_heads,
            f"{arch}.ssm.inner_size": one.value_dim,
            f"{arch}.full_attention_interval": config.num_hidden_layers,
            f"{arch}.rope.dimension_count": config.rotary_dim,
        }
    if with_tokenizer:
        metadata |= _add_vocabulary(writer, config, token_types)
    types = gguf.GGUFValueType
    kinds = {list: types.ARRAY, str: types.STRING, bool: types.BOOL, int: types.UINT32, float: types.FLOAT32}
    for key, value in {**metadata, **(values or {})}.items():
        if value is not None:
            writer.add_key_value(key, value, kinds[type(value)])
    kind = gguf.GGMLQuantizationType[dtype]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    stored = random_weights(config, seed) if weights is None else weights
    for name, tensor in (stored if config.linear is None else as_qwen35_gguf(config, stored)).items():
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp rotates neighbouring rows, Hugging Face rows half a head apart.
            tensor = tensor.reshape(-1, 2, config.head_dim // 2, config.hidden_size).swapaxes(1, 2)
            tensor = tensor.reshape(-1, config.hidden_size)
        short = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if tensor.ndim == 1 or "conv1d" in name:
            writer.add_tensor(short, np.ascontiguousarray(tensor))
        else:
            writer.add_tensor(short, gguf.quants.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: Any, config: ModelConfig, token_types: str) -> dict[str, str | int | float]:
    """Add the lists; return the rest. The tokenizer is `write_tokenizer`'s, padded to `vocab_size`."""
    vocab, merges = tiny_vocabulary()
    tokens = [*sorted(vocab, key=vocab.__getitem__), *SPECIAL_TOKENS]
    types = [1] * len(vocab) + [3] * len(SPECIAL_TOKENS)
    padding = config.vocab_size - len(tokens)
    end_of_text, _, end_of_turn = range(len(vocab), len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens + [f"[PAD{index}]" for index in range(padding)])
    if token_types != "none":
        writer.add_token_types((types if token_types == "right" else [1] * len(types)) + [5] * padding)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    return {
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": end_of_turn,
        "tokenizer.ggml.padding_token_id": end_of_text,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
