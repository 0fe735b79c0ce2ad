"""What a chart shows of an estimate, whatever it is drawn with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.timeline import Timeline
from bmqwen.errors import InputError
from bmqwen.estimate.estimate import Estimate
from bmqwen.estimate.forecast import Spent
from bmqwen.estimate.lanes import first_layer
from bmqwen.estimate.sophon_demo import DemoEstimate
from bmqwen.util.text import counted

PART_LABELS = {
    "weights": "weights of the layers",
    "kv": "attention, K/V cache",
    "lm_head": "lm_head",
    "other": "norms, activations",
    "device": "chip",
    "host": "host",
    "idle": "memory bus idle",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number in large type: what it is, its text, a remark."""

    label: str
    text: str
    remark: str


@dataclass(frozen=True, slots=True)
class ChartNet:
    """A net: title, remark, and the timeline to be drawn."""

    title: str
    remark: str
    timeline: Timeline


@dataclass(frozen=True)
class ChartPage:
    """A chart's content.

    Attributes:
        title, subtitle: of what.
        figures: the numbers.
        shares: rows of shares by part, each with a title.
        curve: history from which on a token costs so many seconds; empty: it always costs the same.
        context: where the curve ends.
        nets: timelines.
    """

    title: str
    subtitle: str
    figures: Sequence[Figure]
    shares: Sequence[tuple[str, Mapping[str, float]]]
    curve: Sequence[tuple[int, float]]
    context: int
    nets: Sequence[ChartNet]


def page_of(estimate: Estimate | DemoEstimate) -> ChartPage:
    """Lay a chart out. Raises InputError for an estimate of a bundle, which has no timelines."""
    return _ours(estimate) if isinstance(estimate, Estimate) else _demo(estimate)


def _ours(estimate: Estimate) -> ChartPage:
    if not estimate.timelines:
        raise InputError(
            f"a bundle does not hold its nets' timelines: for a chart name its model ({estimate.model})"
        )
    f, tokens = estimate.forecast, estimate.forecast.new_tokens - 1
    figures = [
        Figure("first token", f"{f.first_token_s * 1e3:.1f} ms", counted(f.prompt_tokens, "prompt token")),
        Figure("decoding", f"{f.tokens_per_s:.1f} tokens/s", f"{f.token_s * 1e3:.2f} ms a token"),
        *_chip_figures(f.answer, tokens, f.host),
    ]
    nets = []
    for shape, profile in f.nets:
        timeline = first_layer(estimate.timelines[shape])
        remark = (
            f"a layer of {estimate.layers}: {_time(timeline.cycles)}; "
            f"a launch of the whole net: {_time(profile.cycles)}"
        )
        nets.append(ChartNet(str(shape), remark, timeline))
    return ChartPage(
        f"{estimate.model}, {estimate.precision}",
        f"Predicted on a {DEFAULT_CHIP.name}, {f.host.name}: {counted(estimate.layers, 'layer')}, "
        f"{f.context:,} tokens.",
        figures,
        [("a token's time", f.time_shares), ("bytes over the memory bus", f.byte_shares)],
        f.curve,
        f.context,
        nets,
    )


def _demo(estimate: DemoEstimate) -> ChartPage:
    e = estimate
    total = e.token.seconds(e.host)
    time = {part: ns / 1e9 / total for part, ns in e.token.part_ns.items()}
    moved = sum(e.token.part_bytes.values())
    figures = [
        Figure("first token", f"{e.first_token_s * 1e3:.0f} ms", "any prompt"),
        Figure("decoding", f"{e.tokens_per_s:.1f} tokens/s", f"{total * 1e3:.2f} ms a token"),
        *_chip_figures(e.token, 1, e.host),
    ]
    return ChartPage(
        f"{e.model}, {e.form}, nets of the published program",
        f"Predicted on a {DEFAULT_CHIP.name}, {e.host.name}: {counted(e.layers, 'layer')}, {e.context:,} tokens.",
        figures,
        [
            ("a token's time", time | {"host": e.token.host_ops * e.host.op_ms / 1e3 / total}),
            ("bytes over the memory bus", {part: n / moved for part, n in e.token.part_bytes.items()}),
        ],
        (),
        e.context,
        [
            ChartNet(name, f"a launch: {_time(t.profile.cycles)}", t.timeline)
            for name, t in e.timings.items()
            if t.timeline.commands
        ],
    )


def _chip_figures(spent: Spent, tokens: int, host: Host) -> list[Figure]:
    bandwidth = spent.bytes_moved / (spent.device_ns / 1e9)
    return [
        Figure(
            "memory bus",
            f"{bandwidth / 1e9:.1f} GB/s",
            f"{bandwidth / DEFAULT_CHIP.bus:.0%} of {DEFAULT_CHIP.bus / 1e9:.1f}, "
            f"idle {spent.bus_idle_ns / spent.device_ns:.1%}",
        ),
        Figure(
            "host",
            f"{spent.host_ops * host.op_ms / tokens:.2f} ms",
            f"a token: {spent.host_ops / tokens:g} calls",
        ),
    ]


def _time(cycles: int) -> str:
    return f"{cycles / 1e6:.3f} ms"
