"""Calibration text: what ships, or a file of the user's, as token sequences."""

import json
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.template import ChatTemplate, Message
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.model.config import ModelConfig
from bmqwen.util.text import counted
from bmqwen.weights.checkpoint import Checkpoint

SEQUENCE = 512
LEAST_TOKENS = 512
# Of a file no more is read than its tokens can take, whatever its size: ordinary text has about 4 bytes a token.
_MOST_BYTES = 64

Document = str | list[Message]


def shipped_documents() -> list[Document]:
    """Return dialogues, prose and code in English and Chinese: our own, and answers of the demo model."""
    text = files("bmqwen.calibration").joinpath("calibration.jsonl").read_text("utf-8")
    return parse_documents(text, "calibration.jsonl")


def read_documents(path: Path, tokens: int) -> list[Document]:
    """Read a text file as one document, or a *.jsonl file with a "text" or "messages" in each line.

    `tokens`: how many will be used; of a longer file only the beginning is read. Raises InputError: a file that cannot
    be read, is no text, is empty, or has lines of another kind.
    """
    lines = path.suffix == ".jsonl"
    try:
        with path.open("rb") as file:
            data = file.read(tokens * _MOST_BYTES)
            cut = bool(file.read(1))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if cut and lines and b"\n" in data:
        data = data[: data.rindex(b"\n")]
    try:
        # A character that the cut goes through is left out.
        text = getincrementaldecoder("utf-8-sig")().decode(data, final=not cut)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start + 1:,}): convert it first") from None
    if not text.strip():
        raise InputError(f"{path} is empty: give a file with text like that which the model will see")
    text = text.replace("\r\n", "\n")
    return parse_documents(text, str(path)) if lines else [text]


def parse_documents(text: str, source: str) -> list[Document]:
    """Return the documents of JSON lines. Raises InputError, which names the line."""
    found: list[Document] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line)
            if "messages" in values:
                found.append([Message(m["role"], m["content"]) for m in values["messages"]])
            else:
                found.append(_required_text(values["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{source}, line {number}: expected {{"text": ...}} or '
                '{"messages": [{"role": ..., "content": ...}]}'
                f" ({type(error).__name__})"
            ) from None
    return found


def _required_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def tokenizer_of(checkpoint: Checkpoint) -> tuple[Tokenizer, ChatTemplate | None]:
    """Return a checkpoint's tokenizer, and its chat template where it has one that can be used.

    Raises what `Checkpoint.tokenizer_files` and `Tokenizer.from_folder` raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in checkpoint.tokenizer_files().items():
            (Path(folder) / name).write_bytes(content)
        try:
            return Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder)
        except ConfigError:
            return Tokenizer.from_folder(folder), None


def remarks(documents: Sequence[Document], tokens: int, config: ModelConfig) -> list[str]:
    """Return what speaks against a calibration text, in sentences: too short, or of one language."""
    found = []
    if tokens < config.intermediate_size:
        found.append(
            f"{tokens:,} calibration tokens are fewer than the model's {config.intermediate_size:,} widest columns: "
            "more of them give better weights"
        )
    text = "".join(d if isinstance(d, str) else "".join(m.content for m in d) for d in documents)
    chinese = sum("\u4e00" <= letter <= "\u9fff" for letter in text) / max(len(text), 1)
    if not 0.01 < chinese < 0.6:
        language = "Chinese" if chinese < 0.5 else "English"
        found.append(
            f"the calibration text has hardly any {language}: what is written in it may lose quality"
        )
    return found


def sequences_of(
    documents: Sequence[Document], tokenizer: Tokenizer, template: ChatTemplate | None, limit: int
) -> list[list[int]]:
    """Return token ids of the documents in order, in pieces of at most `SEQUENCE`, `limit` tokens together.

    Messages go through the model's own template. Raises InputError where there are fewer than `LEAST_TOKENS`, or
    messages for a model without a template.
    """
    found: list[list[int]] = []
    left, seen = limit, 0
    for document in documents:
        if isinstance(document, str):
            ids = tokenizer.encode(document)
        elif template is None:
            raise InputError(
                "this model has no chat template, so it cannot be calibrated with messages: give text"
            )
        else:
            ids = template.encode(document, tokenizer, add_generation_prompt=False)
        seen += len(ids)
        for start in range(0, len(ids), SEQUENCE):
            piece = ids[start : start + min(SEQUENCE, left)]
            # The first tokens of a piece see little before them: a short one teaches nothing.
            if len(piece) >= 16:
                found.append(piece)
                left -= len(piece)
        if left < 16:
            break
    if sum(map(len, found)) < LEAST_TOKENS:
        raise InputError(
            f"the calibration text has only {counted(seen, 'token')}, too few to tell what matters: give at least "
            f"{LEAST_TOKENS:,}, better 16,000"
        )
    return found
