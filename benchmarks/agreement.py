"""How near each 4-bit grid stays to the float model, on the benchmark's texts."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bmqwen.evaluation.model_pair import FLOAT, Arithmetic, open_pair
from bmqwen.evaluation.text_score import TextScore, evaluate_text
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Progress

Scores = Mapping[str, Mapping[str, TextScore]]
"""By grid and text."""


def score_grids(
    source: Path,
    q4_0: Path,
    texts: Mapping[str, str],
    *,
    threads: int,
    progress: Progress,
    step: Callable[[str], None] = lambda _text: None,
) -> Scores:
    """Score bmqwen's default precision and the peer's Q4_0 file against `source` in float32.

    Args:
        source: the GGUF file that both were made from.
        q4_0: the peer's file.
        texts: by name.
        threads: for the CPU engine.
        progress, step: are told what is done.

    Raises what `open_pair` and `evaluate_text` raise.
    """
    rows: dict[str, tuple[Path, Precision, Arithmetic]] = {
        "bmqwen, as it runs": (source, Precision(), "int8"),
        "Q4_0, weights alone": (q4_0, FLOAT, "float"),
    }
    scores = {}
    for label, (model, precision, arithmetic) in rows.items():
        step(f"KL: {label}")
        pair = open_pair(
            str(model),
            precision,
            against=str(source),
            arithmetic=arithmetic,
            threads=threads,
            progress=progress,
        )
        with pair as models:
            scores[label] = {name: evaluate_text(models, text) for name, text in texts.items()}
    return scores


def markdown(scores: Scores) -> str:
    """A row for each grid: mean KL, its 99th percentile and top-1 agreement on each text."""
    names = list(next(iter(scores.values())))
    head = ["KL to the float model, mean (99th percentile); same top token", *names]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in scores.items():
        cells = []
        for name in names:
            near = row[name].nearness
            assert near is not None  # there always is a float model here
            cells.append(f"{near.mean_kl:.4f} ({near.p99_kl:.2f}); {near.top1_agreement:.1%}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
