"""Plot what each recipe loses against the speed that is predicted for it on the chip.

`python benchmarks/quality_chart.py docs/notes/quantisation.json docs/images/quantisation.png` draws the picture of
the notes. The file holds a list of rows: `label`, `family`, `token_ms`, and mean KL with its 95 % interval: `kl`,
`low`, `high`. A grid that the chip does not hold has no `token_ms`: it is a line.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> int:
    """The command. Returns the exit code."""
    if len(sys.argv) != 3:
        print("usage: quality_chart.py ROWS.json PICTURE", file=sys.stderr)
        return 2
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    on_chip = [row for row in rows if "token_ms" in row]
    for family in dict.fromkeys(row["family"] for row in on_chip):
        these = sorted((row for row in on_chip if row["family"] == family), key=lambda row: row["token_ms"])
        speeds = [1000 / row["token_ms"] for row in these]
        divergences = [row["kl"] for row in these]
        reach = [[row["kl"] - row["low"] for row in these], [row["high"] - row["kl"] for row in these]]
        axes.errorbar(speeds, divergences, yerr=reach, fmt="o", capsize=3, label=family)
        for x, y, row in zip(speeds, divergences, these, strict=True):
            axes.annotate(row["label"], (x, y), (6, 5), textcoords="offset points", fontsize=8)
    for row in rows:
        if "token_ms" not in row:
            axes.axhline(row["kl"], color="0.5", linestyle="--", label=f"{row['family']}: {row['label']}")
    axes.set(
        xlabel="tokens/s on the chip, predicted", ylabel="mean KL to the float model, nats", ylim=(0, None)
    )
    axes.margins(x=0.25)
    axes.grid(alpha=0.3, which="major")
    axes.legend()
    figure.savefig(sys.argv[2], dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
