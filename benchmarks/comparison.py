"""What the rounds say: medians, ranges, ratios, and the table of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity.

    Attributes:
        key: its name in a worker's result.
        title: for people, with the unit.
        higher_is_better: else lower is.
        digits: after the decimal point.
        scale: what a value is multiplied by for people.
    """

    key: str
    title: str
    higher_is_better: bool
    digits: int
    scale: float = 1.0


METRICS = (
    Metric("short_first_token_s", "first token, {short} prompt tokens (s)", False, 3),
    Metric("long_first_token_s", "first token, {long} prompt tokens (s)", False, 3),
    Metric("short_tokens_per_s", "decoding after {short} tokens (tokens/s)", True, 1),
    Metric("long_tokens_per_s", "decoding after {long} tokens (tokens/s)", True, 1),
    Metric("load_s", "load (s)", False, 2),
    Metric("start_to_first_token_s", "load, and the first token of the first question (s)", False, 2),
    Metric("peak_bytes", "peak memory (MB)", False, 0, 1e-6),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of several values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int, scale: float = 1.0) -> str:
        """ "1.23 (1.20 to 1.31)"."""
        median, low, high = (f"{value * scale:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median} ({low} to {high})"

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"median": self.median, "min": self.low, "max": self.high}


class Comparison:
    """The results of all rounds, [round][entry], the first entry being ours."""

    def __init__(self, labels: Sequence[str], results: Sequence[Sequence[dict[str, Any]]]) -> None:
        """`labels` name the entries. Takes at least one round."""
        self.labels = tuple(labels)
        self._results = results

    def spread(self, metric: Metric, entry: int) -> Spread:
        """Of one entry over all rounds."""
        return Spread.of([float(row[entry][metric.key]) for row in self._results])

    def ratio(self, metric: Metric, peer: int) -> Spread:
        """Ours divided by a peer's, taken within each round, so that what slows a whole round cancels out."""
        return Spread.of([float(row[0][metric.key]) / float(row[peer][metric.key]) for row in self._results])

    def markdown(self, prompt_tokens: dict[str, int]) -> str:
        """A row for each metric; medians (least to greatest), then the ratios to each peer."""
        peers = range(1, len(self.labels))
        head = ["", *self.labels, *(f"{self.labels[0]} / {self.labels[peer]}" for peer in peers)]
        lines = [_row(head), "|" + "---|" * len(head)]
        for metric in METRICS:
            better = "higher" if metric.higher_is_better else "lower"
            cells = [f"{metric.title.format(**prompt_tokens)}, {better} is better"]
            cells += [
                self.spread(metric, entry).text(metric.digits, metric.scale)
                for entry in range(len(self.labels))
            ]
            cells += [self.ratio(metric, peer).text(2) for peer in peers]
            lines.append(_row(cells))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what the table shows, then every run."""
        return {
            "engines": {
                label: {metric.key: self.spread(metric, entry).to_dict() for metric in METRICS}
                for entry, label in enumerate(self.labels)
            },
            "ratios": {
                label: {metric.key: self.ratio(metric, peer).to_dict() for metric in METRICS}
                for peer, label in enumerate(self.labels)
                if peer
            },
            "runs": [dict(zip(self.labels, row, strict=True)) for row in self._results],
        }


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
