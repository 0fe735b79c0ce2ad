"""Hugging Face's tokenizer files, built from a GGUF file's metadata."""

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.util.text import first_line
from bmqwen.weights.gguf_file import GgufFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5

# As in the published tokenizer.json of Qwen1.5 to Qwen3, and of the models that DeepSeek distilled into them.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As published with Qwen3.5: marks belong to the letter before them.
_QWEN35_SPLIT = _QWEN2_SPLIT.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}"
)
_SPLITS = {"qwen2": _QWEN2_SPLIT, "deepseek-r1-qwen": _QWEN2_SPLIT, "qwen35": _QWEN35_SPLIT, "smollm": None}
# Of files without tokenizer.ggml.pre, which early ones were made without.
_KIND_OF_ARCHITECTURE = {"qwen2": "qwen2", "qwen3": "qwen2", "qwen35": "qwen35"}
# What llama.cpp's converter takes from generation_config.json.
_SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_MARKED = re.compile(r"<[|｜][^<>|｜\s]{1,60}[|｜]>|</?[a-z_]{1,40}>")


def gguf_tokenizer_files(file: GgufFile) -> dict[str, bytes]:
    """Return tokenizer.json, tokenizer_config.json and generation_config.json, by name.

    Raises:
        CheckpointError: the file has no tokenizer, or a damaged one.
        ConfigError: its kind of tokenizer is unsupported.
    """
    return _Vocabulary(file).files()


class _Vocabulary:
    """Tokens, their types and merges, checked against each other."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._source = str(file.path)
        tokens = file.strings("tokenizer.ggml.tokens")
        if tokens is None:
            raise CheckpointError(
                f"{self._source} has no tokenizer (tokenizer.ggml.tokens); use a file made from a whole model"
            )
        architecture = str(file.metadata.get("general.architecture"))
        kind = file.metadata.get("tokenizer.ggml.pre", _KIND_OF_ARCHITECTURE.get(architecture))
        for key, value, supported in (
            ("model", file.metadata.get("tokenizer.ggml.model"), ("gpt2",)),
            ("pre", kind, tuple(_SPLITS)),
        ):
            if value not in supported:
                raise ConfigError(
                    f"{self._source}: tokenizer.ggml.{key} = {str(value)[:40]!r}, which is unsupported; "
                    f"supported: {' and '.join(supported)}"
                )
        self.kind = str(kind)
        template = str(file.metadata.get("tokenizer.chat_template", ""))
        if len(set(tokens)) != len(tokens):
            raise CheckpointError(f"{self._source}: tokenizer.ggml.tokens has a token twice")
        types = file.metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
        if not isinstance(types, list) or len(types) != len(tokens):
            raise CheckpointError(
                f"{self._source}: tokenizer.ggml.token_type does not match the {len(tokens):,} tokens"
            )
        self.tokens = tokens
        self.types = [_type(token, kind, template) for token, kind in zip(tokens, types, strict=True)]
        # Ids of tokens that are found as whole texts; true for control tokens.
        found = (_USER_DEFINED, _CONTROL, _UNKNOWN)
        self.added = {index: kind != _USER_DEFINED for index, kind in enumerate(self.types) if kind in found}

    def files(self) -> dict[str, bytes]:
        return {
            "tokenizer.json": self._tokenizer().encode(),
            "tokenizer_config.json": json.dumps(self._tokenizer_config(), ensure_ascii=False).encode(),
            "generation_config.json": json.dumps(self._generation_config()).encode(),
        }

    def _tokenizer(self) -> str:
        """The text of tokenizer.json."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, processors

        added = self.added
        normal = [i for i, kind in enumerate(self.types) if kind != _UNUSED and i not in added]
        # Added tokens after the vocabulary get the next ids; those in its midst must be part of it.
        end = max(normal, default=-1) + 1
        tail = [index for index in added if index >= end]
        if tail != list(range(end, end + len(tail))):
            end = tail[-1] + 1
        vocab = {token: index for index, token in enumerate(self.tokens[:end])}
        pairs = (merge.partition(" ") for merge in self._file.strings("tokenizer.ggml.merges") or [])
        try:
            tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[(left, right) for left, _, right in pairs]))
            whole = [AddedToken(self.tokens[i], special=s, normalized=False) for i, s in added.items()]
            tokenizer.add_tokens(whole)
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{self._source}: the tokenizer is damaged ({first_line(error)})") from None
        for index in added:
            if tokenizer.token_to_id(self.tokens[index]) != index:
                raise CheckpointError(
                    f"{self._source}: token {index} of the tokenizer has no place of its own"
                )
        _split_as(self.kind, tokenizer)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.decoder = decoders.ByteLevel()
        return str(tokenizer.to_str())

    def _tokenizer_config(self) -> dict[str, object]:
        special = [self.tokens[index] for index, special in self.added.items() if special]
        arch = self._file.metadata.get("general.architecture")
        config: dict[str, object] = {
            "add_bos_token": bool(self._file.metadata.get("tokenizer.ggml.add_bos_token", False)),
            "add_prefix_space": False,
            "additional_special_tokens": special,
            "bos_token": self._token("bos_token_id"),
            "eos_token": self._token("eos_token_id"),
            "pad_token": self._token("padding_token_id"),
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self._file.metadata.get(f"{arch}.context_length"),
            "tokenizer_class": "GPT2Tokenizer" if self.kind == "smollm" else "Qwen2Tokenizer",
        }
        template = self._file.metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            config["chat_template"] = template
        return config

    def _generation_config(self) -> dict[str, object]:
        ends = [self._id("eos_token_id"), self._id("eot_token_id")]
        # Files name one of the two only, yet a chat model may end with either.
        ends += [i for i in self.added if self.tokens[i] in ("<|im_end|>", "<|endoftext|>")]
        sampling = {
            ours: value if isinstance(value, int) else float(str(np.float32(value)))
            for theirs, ours in _SAMPLING.items()
            if isinstance(value := self._file.metadata.get(f"general.sampling.{theirs}"), int | float)
        }
        return sampling | {
            "bos_token_id": self._id("bos_token_id"),
            "eos_token_id": list(dict.fromkeys(index for index in ends if index is not None)),
            "pad_token_id": self._id("padding_token_id"),
        }

    def _id(self, key: str) -> int | None:
        value = self._file.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and not (type(value) is int and 0 <= value < len(self.tokens)):
            raise CheckpointError(f"{self._source}: tokenizer.ggml.{key} = {str(value)[:40]} is not a token")
        return value if isinstance(value, int) else None

    def _token(self, key: str) -> str | None:
        index = self._id(key)
        return None if index is None else self.tokens[index]


def _type(token: str, kind: object, template: str) -> object:
    """Return a token's type: one that the template writes as a mark is found as a whole, whatever type is stated."""
    if token in template and (kind not in (_CONTROL, _UNKNOWN)) and _MARKED.fullmatch(token):
        return _USER_DEFINED if token[1] not in "|｜" else _CONTROL
    return kind


def _split_as(kind: str, tokenizer: "Tokenizer") -> None:
    """Give a tokenizer the normalisation and the splitting of the published ones of its kind."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    pattern = _SPLITS[kind]
    parts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Digits(individual_digits=True)
        if pattern is None
        else pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None),
    ]
    if pattern is not None:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
