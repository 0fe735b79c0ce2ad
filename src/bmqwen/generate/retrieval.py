"""Embeddings and relevance: the prompts that Qwen3-Embedding and Qwen3-Reranker were trained with, and what their
results mean (arXiv 2506.05176; the models' cards).
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.tokenizer import Tokenizer, read_config
from bmqwen.model.config import ModelConfig

Task = Literal["chat", "embedding", "rerank"]
# What models that know nothing of instructions are asked as well.
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def check_task(config: ModelConfig, name: str, task: Task) -> None:
    """Raise InputError for a model that gives embeddings where text is wanted, or the other way round."""
    if config.headless and task != "embedding":
        raise InputError(
            f"{name} gives embeddings and writes no text: use it with `bmqwen embed` or serve --embedding"
        )
    if not config.headless and task == "embedding":
        raise InputError(
            f"{name} writes text and gives no embeddings: name a model such as qwen3-embedding-0.6b, whose folder has "
            "modules.json"
        )


class EmbeddingPrompts:
    """Prompts of texts whose embeddings are wanted.

    Attributes:
        params: what they are computed with.
        behind: tokens behind the text.
    """

    params = SamplingParams(pool=())

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        """Take the tokenizer, and the folder that says what queries begin with, if it does.

        Raises ConfigError for damaged files.
        """
        self._tokenizer = tokenizer
        path = folder / "config_sentence_transformers.json"
        self._before, self._after = tokenizer.around_text
        # GGUF files do not say it, but the models were trained so; sentence-transformers has what the tokenizer adds.
        if not (self._before or self._after or path.is_file()):
            self._after = [tokenizer.end_of_text]
        self.behind = len(self._after)
        prompts = read_config(path).get("prompts")
        known = prompts.get("query") if isinstance(prompts, dict) else None
        self._query = known if isinstance(known, str) and known else _instructed(INSTRUCTION)

    def prompt(self, text: str, *, query: bool = False, instruction: str | None = None) -> list[int]:
        """Return the token ids of a text; the last one is that whose hidden state is the embedding.

        Documents stand for themselves. A query begins with an instruction: the model's own, if none is given. Raises
        InputError for text that is not valid Unicode, and for none.
        """
        if instruction is not None:
            text = _instructed(instruction) + text
        elif query:
            text = self._query + text
        ids = [*self._before, *self._tokenizer.encode(text), *self._after]
        if not ids:
            raise InputError("the text is empty, and this model adds nothing to it: leave it out")
        return ids


def embedding(completion: Completion, dimensions: int | None = None) -> NDArray[np.float32]:
    """Return the embedding, float32 [dimensions], of length 1: the first so many numbers of a hidden state.

    Raises InputError for more dimensions than there are.
    """
    row = np.frombuffer(completion.row, "<f4")
    check_dimensions(dimensions, len(row))
    part = row[:dimensions].astype(np.float64)
    unit: NDArray[np.float32] = (part / max(float(np.linalg.norm(part)), 1e-12)).astype(np.float32)
    return unit


def check_dimensions(dimensions: int | None, most: int) -> None:
    """Raise InputError for more dimensions than a model has."""
    if dimensions is not None and not 1 <= dimensions <= most:
        raise InputError(f"dimensions is {dimensions}, but must be from 1 to {most}, the width of this model")


class RerankPrompts:
    """Prompts that ask whether a document answers a query: the model would say "yes" or "no"."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def params(self) -> SamplingParams:
        """What they are computed with. Raises ConfigError for a vocabulary without the two words."""
        ids = [self._tokenizer.encode(word) for word in ("yes", "no")]
        if any(len(word) != 1 for word in ids):
            raise ConfigError(
                'this model has no tokens "yes" and "no", so it cannot rerank: use a Qwen3-Reranker'
            )
        return SamplingParams(pool=tuple(word[0] for word in ids))

    def prompt(self, query: str, document: str, instruction: str | None = None) -> list[int]:
        """Return the token ids for a pair. Raises InputError for text that is not valid Unicode."""
        before, after = self._ends
        return [*before, *self._tokenizer.encode(_asked(query, instruction) + document), *after]

    def beside(self, query: str, instruction: str | None = None) -> tuple[int, int]:
        """Return how many tokens of a prompt stand before its document, and how many behind."""
        before, after = self._ends
        return len(before) + len(self._tokenizer.encode(_asked(query, instruction))), len(after)

    @cached_property
    def _ends(self) -> tuple[Sequence[int], Sequence[int]]:
        return self._tokenizer.encode_prompt(_PREFIX), self._tokenizer.encode_prompt(_SUFFIX)


def relevance(completion: Completion) -> float:
    """Return the probability of "yes" beside "no", from 0 to 1."""
    yes, no = np.frombuffer(completion.row, "<f4").tolist()
    return 1 / (1 + math.exp(min(max(no - yes, -700), 700)))


def shortened(ids: list[int], most: int, behind: int) -> list[int]:
    """Return a prompt of at most `most` tokens: a text loses its end, and what stands behind it is kept, as in
    sentence-transformers and in the cards of Qwen3-Embedding and Qwen3-Reranker.
    """
    return ids if len(ids) <= most else ids[: max(most - behind, 0)] + ids[len(ids) - behind :]


def _asked(query: str, instruction: str | None) -> str:
    return f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: "


def _instructed(instruction: str) -> str:
    return f"Instruct: {instruction}\nQuery:"
