"""A picture of an estimate: where a token's time goes, what a token costs as the history grows, a layer's timeline."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from bmqwen.compiler.timing import Timeline
from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.estimate.estimate import Estimate
from bmqwen.estimate.forecast import PART_LABELS
from bmqwen.util.installation import install_command
from bmqwen.util.storage import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".svg", ".png", ".pdf")
COLOURS = {
    "weights": "#3b82f6",
    "kv": "#0fa679",
    "lm_head": "#a259f0",
    "other": "#e69a16",
    "device": "#3b82f6",
    "host": "#8b95a5",
    "python": "#c56b6b",
}


def check_chart(path: Path) -> None:
    """Check, before the work, that a chart can be drawn: by the file's name (InputError) and by an installed matplotlib
    (MissingDependencyError)."""
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path} names no kind of picture: choose a name that ends in {', '.join(KINDS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"a chart needs the package matplotlib: {install_command('plot')}"
        ) from error


def write_chart(estimate: Estimate, path: Path) -> None:
    """Draw a chart in the format that the file's name says. Raises StorageError where it cannot be written."""
    from matplotlib.figure import Figure

    f = estimate.forecast
    # The nets of the answer's first step and of the prompt.
    first = dict.fromkeys([f.nets[0][0], f.prompt_launches[0][0]])
    drawn = [shape for shape in first if shape in estimate.timelines]
    figure = Figure(figsize=(12, 4.6 + 1.5 * len(drawn)), layout="constrained")
    rows = figure.subplots(2 + len(drawn), 1, height_ratios=[1.4, 2, *[1] * len(drawn)], squeeze=False)[:, 0]
    figure.suptitle(
        f"{estimate.model}, {estimate.precision}, {f.context:,} tokens: first token {f.first_token_s * 1e3:.1f} ms, "
        f"{f.tokens_per_s:.1f} tokens/s\npredicted on a {f.chip.name}, {f.host.name}",
        parse_math=False,
    )
    _shares(rows[0], estimate)
    _curve(rows[1], estimate)
    for axes, shape in zip(rows[2:], drawn, strict=True):
        axes.set_title(f"{shape}: first of {estimate.layers} layers", fontsize="medium")
        _timeline(axes, estimate.timelines[shape])
    drawing = io.BytesIO()
    figure.savefig(drawing, format=path.suffix[1:].lower(), dpi=120)
    write_file(path, drawing.getvalue())


def _shares(axes: "Axes", estimate: Estimate) -> None:
    """A stacked bar each for a token's time and for its bytes."""
    f = estimate.forecast
    for row, shares in enumerate((f.byte_shares, f.time_shares)):
        bars, left = [], 0.0
        for part, share in shares.items():
            bars.append(axes.barh(row, share, left=left, color=COLOURS[part]))
            left += share
    labels = [f"{PART_LABELS[part]} {share:.1%}" for part, share in f.time_shares.items()]
    # In two rows: six parts side by side are wider than the picture.
    axes.legend(
        bars, labels, ncols=-(-len(labels) // 2), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False
    )
    axes.set_yticks(range(2), ["a token's bytes", "a token's time"])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")


def _curve(axes: "Axes", estimate: Estimate) -> None:
    """Cost of a token over the history, from zero up."""
    f = estimate.forecast
    starts = [start for start, _ in f.curve]
    axes.stairs([seconds * 1e3 for _, seconds in f.curve], [*starts, f.context], fill=True, color="#3b82f6")
    axes.set(xlim=(0, f.context), xlabel="cached tokens", ylabel="ms a token")


def _timeline(axes: "Axes", timeline: Timeline) -> None:
    """Commands of the first layer, memory bus above compute units."""
    end = min((c.start for c in timeline.commands if c.part == "lm_head"), default=0) or timeline.cycles
    for row, bus in ((0, False), (1, True)):
        commands = [c for c in timeline.commands if c.bus is bus and c.start < end]
        spans = [(c.start / 1e3, (min(c.end, end) - c.start) / 1e3) for c in commands]
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=[COLOURS[c.part] for c in commands])
    axes.set_yticks([0, 1], ["compute", "memory bus"])
    axes.set(xlim=(0, end / 1e3), xlabel="µs")
