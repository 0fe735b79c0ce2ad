"""An estimate for people: figures, bars, and a curve."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from bmqwen.cli.output import size_text
from bmqwen.compiler.estimate.estimate import Estimate
from bmqwen.compiler.estimate.forecast import BUS_BYTES_PER_S, Forecast, cost_at
from bmqwen.words import counted

WIDTH = 40
CURVE = 60
LEVELS = "▁▂▃▄▅▆▇█"
LABELS = {
    "weights": "weights of the layers",
    "kv": "attention, K/V cache",
    "lm_head": "lm_head",
    "other": "norms, activations",
    "device": "chip",
    "host": "host",
}
STYLES = {"weights": "blue", "kv": "green", "lm_head": "magenta", "other": "yellow", "device": "blue", "host": "red"}


def show(estimate: Estimate) -> None:
    """Print it on stdout."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in lines(estimate):
        console.print(line)


def lines(estimate: Estimate) -> Iterator[Text]:
    """The lines of it."""
    f = estimate.forecast
    yield Text(
        f"{estimate.model}, {estimate.precision}, {counted(estimate.layers, 'layer')}, {f.context:,} tokens: "
        f"predicted on a BM1684X, {f.host.name}, {f.host.op_ms:g} ms a call"
    )
    yield Text("")
    after = f" after {f.history:,} cached" if f.history else ""
    launches = ", ".join(f"{shape} ({used} used)" for shape, used in f.prompt_launches)
    yield Text(
        f"first token   {f.first_token_s:8.3f} s          {counted(f.prompt_tokens, 'prompt token')}{after}: {launches}"
    )
    yield Text(f"decoding      {f.tokens_per_s:8.2f} tokens/s   {f.new_tokens:,} new tokens")
    yield Text(
        f"a token       {f.token_s * 1e3:8.2f} ms         chip {f.answer.device_ns / 1e6 / (f.new_tokens - 1):.2f} ms, "
        f"host {f.answer.host_ops / (f.new_tokens - 1):g} calls"
    )
    yield Text(
        f"memory bus    {f.bandwidth / 1e9:8.1f} GB/s       {f.bandwidth / BUS_BYTES_PER_S:.0%} of 68.3, "
        f"{size_text(f.answer.bytes_moved / (f.new_tokens - 1))} a token{_idle(f)}"
    )
    yield Text("")
    yield from _shares(f)
    yield Text("")
    yield from _curve(f)
    yield Text("")
    yield from _nets(f)


def _idle(f: Forecast) -> str:
    return f", idle {f.answer.bus_idle_ns / f.answer.device_ns:.1%} of the chip's time" if f.answer.part_ns else ""


def _shares(f: Forecast) -> Iterator[Text]:
    """A bar for each part of a token's time."""
    yield Text("where a token's time goes" + (" (and the bytes that the chip moves)" if f.byte_shares else ""))
    for part, share in f.time_shares.items():
        moved = f"{f.byte_shares[part]:6.1%} of bytes" if part in f.byte_shares else ""
        yield Text.assemble(
            f"  {LABELS[part]:22}{share * f.token_s * 1e3:8.2f} ms {share:6.1%}  ",
            (_bar(share, WIDTH), STYLES[part]),
            f" {moved}",
        )
    if not f.byte_shares:
        yield Text("  (bundles made by an older version do not say how the chip's time divides)")


def _bar(share: float, width: int) -> str:
    filled = round(share * width)
    return "█" * filled + "·" * (width - filled)


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
    """A block a value, its height from zero, so that a flat cost looks flat."""
    top = max(values)
    return "".join(LEVELS[min(len(LEVELS) - 1, int(v / top * len(LEVELS)))] for v in values)


def _nets(f: Forecast) -> Iterator[Text]:
    yield Text("nets: new tokens, after cached ones at most, and a launch as predicted")
    yield Text(f"{'tokens':>8}{'history':>9}{'time':>13}{'a token':>12}{'bytes':>10}{'bus idle':>10}")
    for shape, profile in f.nets:
        idle = f"{profile.bus_idle / profile.cycles:.1%}" if profile.part_cycles else "-"
        yield Text(
            f"{shape.tokens:8}{shape.history:9}{profile.cycles / 1e6:10.3f} ms{profile.cycles / 1e6 / shape.tokens:9.3f} ms"
            f"{size_text(profile.bytes_moved):>10}{idle:>10}"
        )
