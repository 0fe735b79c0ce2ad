"""An estimate for people: figures, bars, and a curve."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.estimate.estimate import Estimate, Published
from bmqwen.estimate.forecast import PART_LABELS, Forecast, cost_at
from bmqwen.util.text import counted, size_text

WIDTH = 40
CURVE = 60
LEVELS = "▁▂▃▄▅▆▇█"
STYLES = {
    "weights": "blue",
    "kv": "green",
    "lm_head": "magenta",
    "other": "yellow",
    "device": "blue",
    "host": "red",
    "python": "red",
}


def show(text: Iterable[Text]) -> None:
    """Print lines on stdout."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in text:
        console.print(line)


def lines(estimate: Estimate) -> Iterator[Text]:
    """Yield the lines that show an estimate."""
    f = estimate.forecast
    yield Text(
        f"{estimate.model}, {estimate.precision}, {counted(estimate.layers, 'layer')}, {f.context:,} tokens: "
        f"predicted on a {f.chip.name}, {_host(f.host)}"
    )
    yield Text("")
    idle = f", idle {f.answer.bus_idle_ns / f.answer.device_ns:.1%} of the chip's time"
    after = f" after {f.history:,} cached" if f.history else ""
    launches = ", ".join(_launches(f))
    yield Text(
        f"first token   {f.first_token_s:8.3f} s          {counted(f.prompt_tokens, 'prompt token')}{after}: {launches}"
    )
    yield Text(f"decoding      {f.tokens_per_s:8.2f} tokens/s   {f.new_tokens:,} new tokens")
    yield Text(
        f"a token       {f.token_s * 1e3:8.2f} ms         chip {f.answer.device_ns / 1e6 / (f.new_tokens - 1):.2f} ms, "
        f"host {f.answer.host_ops / (f.new_tokens - 1):g} calls (libbmrt; SAIL makes two more)"
    )
    yield Text(
        f"memory bus    {f.bandwidth / 1e9:8.1f} GB/s       {f.bandwidth / f.chip.bus:.0%} of "
        f"{f.chip.bus / 1e9:.1f}, {size_text(f.answer.bytes_moved / (f.new_tokens - 1))} a token"
        + (idle if f.answer.part_ns else "")
    )
    for number, part in enumerate(estimate.parts, start=1):
        yield Text(
            f"chip {number:<8}{size_text(part.device_bytes):>9}            {counted(part.layers, 'layer')}, "
            f"{part.time_share:.0%} of a token's time on the chips"
        )
    for beside in estimate.together:
        yield Text(
            f"together      {beside.tokens_per_s:8.2f} tokens/s   {beside.clients} conversations, "
            f"{beside.tokens_per_s / f.tokens_per_s:.1f} times one: a step {beside.step_s * 1e3:.2f} ms; first token "
            f"{beside.first_token_s:.3f} s while {beside.clients - 1} go on"
            + (f"; {beside.groups} groups" if beside.groups > 1 else "")
        )
    if row := estimate.published:
        yield Text(
            f"published     {row.first_token_s:8.3f} s          {row.tokens_per_s:.3f} tokens/s: predicted is "
            f"{row.first_token_s / f.first_token_s:.2f} and {f.tokens_per_s / row.tokens_per_s:.2f} times as fast"
        )
    yield Text("")
    yield from _shares(f)
    yield Text("")
    yield from _curve(f)
    yield Text("")
    yield from _nets(f)


def _host(host: Host) -> str:
    """Name a host, the milliseconds of a call, and how many times as long Python takes there."""
    scaled = "as measured" if host.python_factor == 1 else f"measured elsewhere times {host.python_factor:g}"
    return f"{host.name}, {host.op_ms:g} ms a call, Python {scaled}"


def _launches(f: Forecast) -> Iterator[str]:
    """Return the nets that read the prompt; equal ones in a row are counted."""
    for (shape, used), equal in groupby(f.prompt_launches):
        count = len(list(equal))
        yield f"{count} x {shape}" if count > 1 else f"{shape} ({used} used)"


def _shares(f: Forecast) -> Iterator[Text]:
    """Return a bar for each part of a token's time."""
    yield Text(
        "where a token's time goes" + (" (and the bytes that the chip moves)" if f.byte_shares else "")
    )
    for part, share in f.time_shares.items():
        moved = f" {f.byte_shares[part]:6.1%} of bytes" if part in f.byte_shares else ""
        yield Text.assemble(
            f"  {PART_LABELS[part]:22}{share * f.token_s * 1e3:8.2f} ms {share:6.1%}  ",
            (("█" * round(share * WIDTH)).ljust(WIDTH, "·"), STYLES[part]),
            moved,
        )
    if not f.byte_shares:
        yield Text("  (bundles made by an older version do not say how the chip's time divides)")


def _curve(f: Forecast) -> Iterator[Text]:
    """Cost of a token over the history, as a line of blocks."""
    points = [cost_at(f.curve, i * f.context // CURVE) for i in range(CURVE)]
    yield Text(
        f"a token as the history grows: {points[0] * 1e3:.2f} ms after 0, {points[-1] * 1e3:.2f} ms after "
        f"{f.context - 1:,}"
    )
    yield Text.assemble("  ", (sparkline(points), "cyan"), f"  0 to {f.context:,}")
    for start, seconds in f.curve:
        yield Text(f"  from {start:6,} cached tokens on {seconds * 1e3:8.2f} ms")


def sparkline(values: Sequence[float]) -> str:
    """Draw a block for each value; the foot is half of the greatest, so that steps of a few per cent show."""
    top = max(values)
    steps = (round((2 * value / top - 1) * (len(LEVELS) - 1)) for value in values)
    return "".join(LEVELS[max(0, step)] for step in steps)


def _nets(f: Forecast) -> Iterator[Text]:
    yield Text("nets: new tokens, after cached ones at most, results, and a launch as predicted")
    yield Text(
        f"{'tokens':>8}{'history':>9}{'results':>9}{'time':>13}{'a token':>12}{'bytes':>10}{'bus idle':>10}"
    )
    for shape, profile in f.nets:
        idle = f"{profile.bus_idle / profile.cycles:.1%}" if profile.part_cycles else "-"
        yield Text(
            f"{shape.tokens:8}{shape.history:9}{shape.rows:9}{profile.cycles / 1e6:10.3f} ms"
            f"{profile.cycles / 1e6 / shape.tokens:9.3f} ms{size_text(profile.bytes_moved):>10}{idle:>10}"
        )


def table_lines(rows: Iterable[tuple[Published, Estimate]], host: Host) -> Iterator[Text]:
    """Yield a table in Markdown: predicted figures beside the published ones."""
    yield Text(f"predicted on a {DEFAULT_CHIP.name}, {_host(host)}")
    yield Text("")
    yield Text("| model | context | first token | published | ratio | tokens/s | published | ratio |")
    yield Text("|---|---|---|---|---|---|---|---|")
    for row, estimate in rows:
        found = estimate.forecast
        yield Text(
            f"| {row.model} {row.form} | {row.context} | {found.first_token_s:.4f} s | {row.first_token_s:.3f} s "
            f"| {found.first_token_s / row.first_token_s:.3f} | {found.tokens_per_s:.2f} | {row.tokens_per_s:.3f} "
            f"| {found.tokens_per_s / row.tokens_per_s:.3f} |"
        )
