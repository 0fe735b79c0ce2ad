"""How good a model's predictions are on a text, and how near to those of its float model."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import InputError
from bmqwen.evaluation.divergence import Divergence, Nearness
from bmqwen.evaluation.duration import guessed_tokens
from bmqwen.evaluation.kept_scores import KeptScores
from bmqwen.evaluation.model_pair import ModelPair
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.util.text import counted, size_text

# Rows of logits at once: 64 rows of a vocabulary of 152,000 are 39 MB, and Ctrl-C is felt soon.
PIECE = 64
# Longer ones would be read for days.
_MOST_BYTES = 1 << 28
WINDOW = 512

Step = Callable[[int, int, float], None]  # tokens scored, tokens in all, perplexity so far


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, stop) of a text are read from an empty cache; those from `first` on are scored."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class TextScore:
    """A model on a text, or on as many of its tokens as were wanted.

    Attributes:
        tokens: of the text; the first one of a document has no prediction and is not scored.
        scores: of each token scored.
    """

    tokens: int
    scores: Divergence
    window: int
    stride: int

    @classmethod
    def together(cls, scores: "Sequence[TextScore]") -> "TextScore":
        """Return the score of several texts as of one, whose independent parts are those of each."""
        every = Divergence()
        for score in scores:
            every.extend(score.scores)
        return cls(sum(score.tokens for score in scores), every, scores[0].window, scores[0].stride)

    @property
    def scored(self) -> int:
        """Tokens whose prediction counts."""
        return self.scores.tokens

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood of the tokens scored."""
        return self.scores.perplexity

    @property
    def nearness(self) -> Nearness | None:
        """To the float model; None where there was none."""
        return self.scores.nearness

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; what concerns the float model is missing where there was none."""
        values: dict[str, Any] = {
            "tokens": self.tokens,
            "scored": self.scored,
            "window": self.window,
            "stride": self.stride,
            "perplexity": self.perplexity,
        }
        if (nearness := self.nearness) is not None:
            near = asdict(nearness)
            values |= {"float_perplexity": near.pop("perplexity"), **near}
        return values

    def __str__(self) -> str:
        lines = [
            f"{self.scored:,} of {self.tokens:,} tokens scored, in windows of {self.window} every {self.stride}",
            f"perplexity            {self.perplexity:.3f}",
        ]
        if (near := self.nearness) is not None:
            change = self.perplexity / near.perplexity - 1
            (low, high), (low99, high99), (least, most) = (
                near.mean_kl_interval,
                near.p99_kl_interval,
                near.top1_interval,
            )
            lines[1] += f"  (float model {near.perplexity:.3f}, {change:+.2%})"
            lines += [
                f"KL to the float model {near.mean_kl:.5f} nats a token ({low:.5f} to {high:.5f})",
                f"99th percentile of it {near.p99_kl:.4f} ({low99:.4f} to {high99:.4f})",
                f"same most likely token {near.top1_agreement:.2%} ({least:.2%} to {most:.2%})",
                f"in brackets: 95 % intervals over {counted(near.blocks, 'independent part')} of the text",
            ]
        return "\n".join(lines)


def check_limit(limit: int | None) -> None:
    """Raise InputError unless so many tokens can be scored."""
    if limit is not None and limit < 2:
        raise InputError(f"the limit must be at least 2 tokens, not {limit}")


def evaluate_text(
    pair: ModelPair,
    text: str | Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    step: Step = lambda _done, _total, _perplexity: None,
    kept: KeptScores | None = None,
) -> TextScore:
    """Score a text of any length, or several documents, in windows, each read from an empty cache.

    Args:
        text: plain text; control tokens in it are text. Documents are independent of each other; a single one's windows
            are taken to be.
        window: tokens read at once, at least 2; None: 512, or what the model can read.
        stride: from one window's start to the next, at most `window`; None: half of it. A window scores the tokens
            that none before it scored, so each has at least window - stride tokens before it, save at the start.
            With stride = window the first token of every window is not scored.
        limit: only so many tokens of the text.
        kept: where each block's scores are kept, so that an interrupted evaluation goes on where it was.

    Raises InputError (a number out of range, or fewer than two tokens), DeviceError (logits that are not finite),
    StorageError.
    """
    longest = pair.model.context_length
    window = min(WINDOW, longest) if window is None else window
    stride = max(window // 2, 1) if stride is None else stride
    if not 2 <= window <= longest:
        limits = f"between 2 and the model's {longest:,} tokens"
        raise InputError(f"the context window must be {limits}, not {window:,}")
    if not 1 <= stride <= window:
        limits = f"between 1 and the context window's {window:,} tokens"
        raise InputError(f"the stride must be {limits}, not {stride:,}")
    check_limit(limit)
    documents: list[list[int]] = []
    for document in [text] if isinstance(text, str) else text:
        room = None if limit is None else limit - sum(map(len, documents))
        documents.append(pair.tokenizer.encode(document)[:room])
    tokens = sum(map(len, documents))
    spans = [(ids, list(windows(len(ids), window, stride))) for ids in documents]
    total = sum(span.stop - span.first for _, parts in spans for span in parts)
    if not total:
        raise InputError(
            f"the text has {counted(tokens, 'token')}, but a perplexity needs at least 2: give a longer text"
        )
    scores = Divergence()
    for ids, parts in spans:
        blocks = [[part] for part in parts] if len(documents) == 1 else [parts] if parts else []
        for block in blocks:
            _score_block(pair, ids, block, scores, kept)
            step(scores.tokens, total, scores.perplexity)
    return TextScore(tokens, scores, window, stride)


def _score_block(
    pair: ModelPair, ids: list[int], spans: Sequence[Window], scores: Divergence, kept: KeptScores | None
) -> None:
    """Add the scores of some windows of a document: those kept, or computed now."""
    scores.begin_block()
    name = [ids[: spans[-1].stop], [[span.start, span.first] for span in spans], pair.reference is None]
    if kept is not None and (found := kept.read(name)) is not None:
        scores.add_scores(found)
        return
    for span in spans:
        rows = [
            _logits(runtime, ids, span) for runtime in (pair.model, pair.reference) if runtime is not None
        ]
        for targets, *logits in zip(_targets(ids, span), *rows, strict=True):
            scores.add(targets, *logits)
    if kept is not None:
        kept.write(name, scores.last_block())


def windows(count: int, window: int, stride: int) -> Iterator[Window]:
    """Yield the windows for a text of `count` tokens, none without a token to score."""
    scored = 1
    for start in range(0, count, stride):
        stop = min(start + window, count)
        first = max(scored, start + 1)
        if first < stop:
            yield Window(start, first, stop)
        scored = stop
        if stop == count:
            return


def guessed_reading(
    texts: Iterable[Sequence[str]], window: int | None, stride: int | None, limit: int | None
) -> int:
    """Return about how many tokens a model reads to score these texts (the documents of each) by `evaluate_text`.

    What overlapping windows have in common is read twice.
    """
    window = max(2, window or WINDOW)
    stride = max(1, stride or window // 2)
    read = 0
    for documents in texts:
        left = limit
        for document in documents:
            tokens = guessed_tokens(document)
            if left is not None:
                tokens = min(tokens, left)
                left -= tokens
            read += sum(span.stop - span.start for span in windows(tokens, window, stride))
    return read


def held_out_texts() -> dict[str, list[str]]:
    """Return documents that ship for evaluations, in English, Chinese and code; none is in the calibration text."""
    folder = files("bmqwen.evaluation").joinpath("texts")
    return {
        name: [
            json.loads(line)["text"]
            for line in folder.joinpath(f"{name}.jsonl").read_text("utf-8").strip().split("\n")
        ]
        for name in ("english", "chinese", "code")
    }


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises InputError if it cannot be read, is no text or has nothing in it."""
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(
                f"{path} holds {size_text(size)}, which takes days to read: give the beginning of it, at most "
                f"{size_text(_MOST_BYTES)}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start + 1:,}): convert it first, for example with "
            "`iconv -f GB18030 -t UTF-8`"
        ) from None
    if "\0" in text:
        raise InputError(f"{path} is a binary file, no text: it has a zero byte")
    if not text.strip():
        raise InputError(f"{path} is empty: give a file with some text")
    return text.replace("\r\n", "\n")


def read_documents(path: Path) -> list[str]:
    """Read a text as one document, or a *.jsonl file with a document's "text" in each line.

    Raises InputError as `read_text`, and for lines of another kind.
    """
    text = read_text(path)
    if path.suffix != ".jsonl":
        return [text]
    documents = [
        _document(line, f"{path}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not documents:
        raise InputError(f"{path} holds no document: give a file with some text")
    return documents


def _document(line: str, source: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f'{source}: expected {{"text": ...}}') from None


def _targets(ids: Sequence[int], span: Window) -> Iterator[Sequence[int]]:
    return (ids[start : min(start + PIECE, span.stop)] for start in range(span.first, span.stop, PIECE))


def _logits(runtime: Runtime, ids: Sequence[int], span: Window) -> Iterator[NDArray[np.float32]]:
    sequence = RuntimeSequence(runtime)
    sequence.truncate(0)
    # What comes before the row that predicts the first token is only read: its logits would cost time.
    if before := ids[span.start : span.first - 1]:
        for _ in sequence.read(before):
            pass
    for targets in _targets(range(len(ids)), span):
        yield sequence.feed(ids[targets[0] - 1 : targets[-1]], every_row=True).logits()
