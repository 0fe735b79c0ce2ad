"""Calibration text: what ships, or a file of the user's, as token sequences."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bmqwen.errors import InputError
from bmqwen.generate.template import ChatTemplate, Message
from bmqwen.generate.tokenizer import Tokenizer

SEQUENCE = 512
LEAST_TOKENS = 512

Document = str | list[Message]


def shipped_documents() -> list[Document]:
    """Return dialogues, prose and code in English and Chinese; calibration.md says where they come from."""
    return parse_documents(files(__package__).joinpath("calibration.jsonl").read_text("utf-8"), "calibration.jsonl")


def read_documents(path: Path) -> list[Document]:
    """Read a text file as one document, or a *.jsonl file with a "text" or "messages" in each line.

    Raises InputError: a file that cannot be read, is no text, or has lines of another kind.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start + 1:,}): convert it first") from None
    return parse_documents(text, str(path)) if path.suffix == ".jsonl" else [text]


def parse_documents(text: str, source: str) -> list[Document]:
    """Return the documents of JSON lines. Raises InputError, which names the line."""
    found: list[Document] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line)
            if "messages" in values:
                found.append([Message(str(m["role"]), str(m["content"])) for m in values["messages"]])
            else:
                found.append(str(values["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{source}, line {number}: expected {{"text": ...}} or {{"messages": [{{"role": ..., "content": ...}}]}}'
                f" ({type(error).__name__})"
            ) from None
    return found


def sequences_of(
    documents: Sequence[Document], tokenizer: Tokenizer, template: ChatTemplate | None, limit: int
) -> list[list[int]]:
    """Return token ids of the documents in order, in pieces of at most `SEQUENCE`, `limit` tokens together.

    Messages go through the model's own template. Raises InputError where there are fewer than `LEAST_TOKENS`, or
    messages for a model without a template.
    """
    found: list[list[int]] = []
    left = limit
    for document in documents:
        if isinstance(document, str):
            ids = tokenizer.encode(document)
        elif template is None:
            raise InputError("this model has no chat template, so it cannot be calibrated with messages: give text")
        else:
            ids = template.encode(document, tokenizer, add_generation_prompt=False)
        for start in range(0, len(ids), SEQUENCE):
            piece = ids[start : start + min(SEQUENCE, left)]
            # The first tokens of a piece see little before them: a short one teaches nothing.
            if len(piece) >= 16:
                found.append(piece)
                left -= len(piece)
        if left < 16:
            break
    total = sum(map(len, found))
    if total < LEAST_TOKENS:
        raise InputError(
            f"the calibration text has only {total:,} tokens, too few to tell what matters: give at least "
            f"{LEAST_TOKENS:,}, better 16,000"
        )
    return found
