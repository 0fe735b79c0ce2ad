"""How good a model's predictions are on a text, and how near to those of its float model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import InputError
from bmqwen.evaluation.divergence import Divergence, Nearness
from bmqwen.evaluation.model_pair import ModelPair
from bmqwen.runtime.base import Runtime, RuntimeSequence

# Rows of logits at once: 64 rows of a vocabulary of 152,000 are 39 MB, and Ctrl-C is felt soon.
PIECE = 64
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
        scored: tokens whose prediction counts; the first one of a text has no prediction.
        perplexity: exp of the mean negative log-likelihood of the tokens scored.
        nearness: to the float model; None where there was none.
    """

    tokens: int
    scored: int
    window: int
    stride: int
    perplexity: float
    nearness: Nearness | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; what concerns the float model is missing where there was none."""
        values = asdict(self)
        del values["nearness"]
        if self.nearness is not None:
            near = asdict(self.nearness)
            values |= {"float_perplexity": near.pop("perplexity"), **near}
        return values

    def __str__(self) -> str:
        lines = [
            f"{self.scored:,} of {self.tokens:,} tokens scored, in windows of {self.window} every {self.stride}",
            f"perplexity            {self.perplexity:.3f}",
        ]
        if (near := self.nearness) is not None:
            change = self.perplexity / near.perplexity - 1
            lines[1] += f"  (float model {near.perplexity:.3f}, {change:+.2%})"
            lines += [
                f"KL to the float model {near.mean_kl:.5f} nats a token, ± {near.kl_standard_error:.5f}",
                f"99th percentile of it {near.p99_kl:.4f}",
                f"same most likely token {near.top1_agreement:.2%}",
            ]
        return "\n".join(lines)


def check_limit(limit: int | None) -> None:
    """Raise InputError unless so many tokens can be scored."""
    if limit is not None and limit < 2:
        raise InputError(f"the limit must be at least 2 tokens, not {limit}")


def evaluate_text(
    pair: ModelPair,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    step: Step = lambda _done, _total, _perplexity: None,
) -> TextScore:
    """Score a text of any length in windows, each read from an empty cache.

    Args:
        text: plain text; control tokens in it are text.
        window: tokens read at once, at least 2; None: 512, or what the model can read.
        stride: from one window's start to the next, at most `window`; None: half of it. A window scores the tokens
            that none before it scored, so each has at least window - stride tokens before it, save at the start.
            With stride = window the first token of every window is not scored.
        limit: only so many tokens of the text.

    Raises InputError (a number out of range, or fewer than two tokens), DeviceError (logits that are not finite).
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
    ids = pair.tokenizer.encode(text)[:limit]
    if len(ids) < 2:
        got = f"the text has {len(ids)} tokens"
        raise InputError(f"{got}, but a perplexity needs at least 2: give a longer text")
    spans = list(windows(len(ids), window, stride))
    total = sum(span.stop - span.first for span in spans)
    scores = Divergence()
    for span in spans:
        rows = [
            _logits(runtime, ids, span) for runtime in (pair.model, pair.reference) if runtime is not None
        ]
        for targets, *logits in zip(_targets(ids, span), *rows, strict=True):
            scores.add(targets, *logits)
            step(scores.tokens, total, scores.perplexity)
    return TextScore(len(ids), scores.tokens, window, stride, scores.perplexity, scores.nearness)


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


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises InputError if it cannot be read, is no text or has nothing in it."""
    try:
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
