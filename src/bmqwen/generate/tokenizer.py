"""Text to token ids and back. What a user types into a message never becomes a control token."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.answer_parts import TAGS

# Ends of an answer, whatever generation_config.json says: Qwen1.5's own names only one of them.
_STOP_NAMES = ("<|endoftext|>", "<|im_end|>")


class Tokenizer:
    """A byte-level BPE tokenizer (that of every Qwen) with a hard line between text and control tokens.

    Control tokens are the added tokens of tokenizer.json, such as <|im_end|> and <tool_call>.
    Only a chat template or a finished prompt may write them (see `split_control`, `encode_prompt`); `encode` takes them
    for plain text.

    Attributes:
        control_tokens: these, and their ids.
        stop_ids: tokens that end an answer.
        end_of_text: the token between documents, which a text begins after.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, *, stop_ids: Iterable[int] = (), origin: str = "tokenizer.json"
    ) -> None:
        """Take `inner` over.

        `stop_ids` are added to those of <|endoftext|> and <|im_end|>; `origin` is for messages.

        Raises ConfigError unless the tokenizer is a byte-level one.
        """
        if not isinstance(inner.decoder, decoders.ByteLevel):
            kind = type(inner.decoder).__name__
            raise ConfigError(
                f"{origin} has the decoder {kind}, but only byte-level tokenizers are supported"
            )
        self._inner = inner
        inner.no_truncation()
        inner.no_padding()
        added = inner.get_added_tokens_decoder()
        self.control_tokens = {token.content: token_id for token_id, token in added.items() if token.content}
        self._control_ids = frozenset(self.control_tokens.values())
        # Some files mark what stands around thoughts and tool calls as special; an answer must show it to be read.
        tags = {tag for pair in TAGS.values() for tag in pair}
        self._special = frozenset(
            token_id for token_id, token in added.items() if token.special and token.content not in tags
        )
        self._control_pattern = _pattern(added.values())
        # The library leaves out of its matching only tokens marked as special, so all are marked so.
        for token in added.values():
            token.special = True
        inner.add_special_tokens(list(added.values()))
        inner.encode_special_tokens = True
        self._bytes: dict[int, bytes] = {}
        names = (self.control_tokens[name] for name in _STOP_NAMES if name in self.control_tokens)
        self.stop_ids = frozenset(stop_ids) | frozenset(names)
        self.end_of_text = self.control_tokens.get(_STOP_NAMES[0], min(self.stop_ids, default=0))
        for content, token_id in self.control_tokens.items():
            if token_id in inner.encode(content, add_special_tokens=False).ids:
                raise ConfigError(f"{origin} makes the control token {content} out of plain text")

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """From a checkpoint's folder: tokenizer.json; tokenizer_config and generation_config name more stop tokens.

        Raises ConfigError for a missing or damaged file, or an eos_token_id that is no token.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist; download the model again, it is part of it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        stop_ids = _eos_ids(read_config(Path(folder) / "generation_config.json"))
        eos = token_text(read_config(Path(folder) / "tokenizer_config.json").get("eos_token"))
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except BaseException as error:
            # The library raises plain Exception, and a Rust panic (no Exception) for some inconsistent merges.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ConfigError(f"{path} is not a tokenizer: {error}; download the model again") from error
        eos_id = None if eos is None else inner.token_to_id(eos)
        return cls(inner, stop_ids=stop_ids if eos_id is None else [*stop_ids, eos_id], origin=str(path))

    @cached_property
    def vocab_size(self) -> int:
        """The highest token id plus one; a model's logits may be wider."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def agrees_with(self, other: "Tokenizer") -> bool:
        """Whether both have the same tokens of text, and no control token that stands for another one there."""
        texts = [
            {text: number for text, number in vocab.items() if text not in one.control_tokens}
            for one in (self, other)
            for vocab in (one._inner.get_vocab(with_added_tokens=True),)
        ]
        controls = self.control_tokens.items()
        return texts[0] == texts[1] and all(
            other.control_tokens.get(text, number) == number for text, number in controls
        )

    def encode(self, text: str) -> list[int]:
        """Return token ids of plain text, none of them a control token. Raises InputError for lone surrogates."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"character {error.start + 1} of the text is not valid Unicode") from None
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        if not self._control_ids.isdisjoint(ids):
            raise InputError("the text would become a control token with this model's tokenizer")
        return ids

    @cached_property
    def around_text(self) -> tuple[list[int], list[int]]:
        """The tokens that tokenizer.json has before and behind a text by itself; chat models have none."""
        plain = self._inner.encode("a", add_special_tokens=False).ids
        whole: list[int] = self._inner.encode("a", add_special_tokens=True).ids
        size = len(plain)
        places = (at for at in range(len(whole)) if whole[at : at + size] == plain)
        return next(((whole[:at], whole[at + size :]) for at in places), ([], []))

    def encode_prompt(self, text: str) -> list[int]:
        """Return token ids of a finished prompt, in which control tokens are written by their names.

        Raises InputError for lone surrogates.
        """
        ids: list[int] = []
        for part in self.split_control(text):
            ids += [part] if isinstance(part, int) else self.encode(part)
        return ids

    def split_control(self, text: str) -> list[str | int]:
        """Return text that a template wrote, cut at its control tokens: these as ids, all else as strings."""
        if self._control_pattern is None:
            return [text] if text else []
        parts: list[str | int] = []
        end = 0
        for match in self._control_pattern.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            parts.append(self.control_tokens[match[match.lastindex or 0]])
            end = match.end()
        if end < len(text):
            parts.append(text[end:])
        return parts

    def end_of_prompt(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt's last tokens, control tokens included, without blanks at its end."""
        return b"".join(map(self.token_bytes, ids[-8:])).decode("utf-8", "replace").rstrip()

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that tokens show: special tokens show nothing, a broken UTF-8 sequence shows U+FFFD."""
        return b"".join(map(self.shown_bytes, ids)).decode("utf-8", "replace")

    def shown_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to the shown text: UTF-8, perhaps part of a character; a special one nothing."""
        return b"" if token_id in self._special else self.token_bytes(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's bytes, a special token's name included; nothing for an id that no token has."""
        if token_id not in self._bytes:
            token = self._inner.id_to_token(token_id)
            self._bytes[token_id] = b"" if token is None else _to_bytes(token)
        return self._bytes[token_id]


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint's folder; {} without such a file. Raises ConfigError if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; download the model again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object; download the model again")
    return value


def token_text(value: Any) -> str | None:
    """Return a token's text out of what a config may have for it: text, or an object with its content."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _eos_ids(generation_config: Mapping[str, Any]) -> list[int]:
    value = generation_config.get("eos_token_id")
    ids: Sequence[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        raise ConfigError(f"generation_config.json has eos_token_id {value!r}, which is not a token id")
    return list(ids)


def _pattern(tokens: Iterable[AddedToken]) -> re.Pattern[str] | None:
    """Return a pattern with a group for each token: the leftmost, longest one matches, as in the library."""
    choices = []
    for token in sorted((token for token in tokens if token.content), key=lambda token: -len(token.content)):
        choice = f"({re.escape(token.content)})"
        if token.single_word:
            choice = rf"(?<!\w){choice}(?!\w)"
        choices.append((r"\s*" if token.lstrip else "") + choice + (r"\s*" if token.rstrip else ""))
    return re.compile("|".join(choices)) if choices else None


# The characters that stand for bytes (GPT-2): printable Latin-1 for itself, the rest from U+0100 on.
_PLAIN = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_REST = (byte for byte in range(256) if byte not in _PLAIN)
_ALPHABET = {chr(byte): byte for byte in _PLAIN} | {
    chr(0x100 + place): byte for place, byte in enumerate(_REST)
}


def _to_bytes(token: str) -> bytes:
    # A token with a character outside of the alphabet (an added one with a blank) stands for itself.
    try:
        return bytes(_ALPHABET[char] for char in token)
    except KeyError:
        return token.encode("utf-8")
