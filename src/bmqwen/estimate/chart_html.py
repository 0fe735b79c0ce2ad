"""An estimate as a page: one file, no script, light and dark, on a screen and on a phone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from bmqwen.compiler.timeline import PARTS
from bmqwen.estimate.chart_page import PART_LABELS, ChartNet, ChartPage, Figure
from bmqwen.estimate.lanes import Run, lanes

# Width of a lane's drawing; it is stretched to the page.
WIDTH = 1400
LANE = 26
TICKS = 6
FAINTEST = 0.3
SMALLEST_SHARE = 0.002
# So many marks fit under a curve.
CROWDED = 12
EXPLANATION = (
    "What the memory bus and the compute units do at the same time, and where the bus waits. "
    "Paler: several short commands with gaps between them. Point at a command for its name."
)

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#16181d;--soft:#5d6572;--line:#e2e5ea;--lane:#eef0f4;
--weights:#3b82f6;--kv:#0fa679;--lm_head:#a259f0;--other:#e69a16;--host:#8b95a5;--device:#3b82f6;--idle:#e5484d}
@media(prefers-color-scheme:dark){:root{--bg:#101216;--card:#191c22;--ink:#e8eaee;--soft:#9aa3b2;--line:#2a2f38;
--lane:#23272f;--weights:#5b9bff;--kv:#2cc295;--lm_head:#b984f7;--other:#f0b140;--host:#7c8698;--device:#5b9bff;
--idle:#ff6166}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","Noto Sans","Noto Sans CJK SC",
sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1160px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:24px;line-height:1.25;margin:0}h2{font-size:17px;margin:32px 0 2px}h2+p{margin-bottom:10px}
h3{font-size:15px;margin:0}
p{margin:4px 0 0;color:var(--soft)}small,.soft{color:var(--soft);font-size:13px}
section,.figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.figures{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:20px 0 12px}
.figure b{display:block;font-size:23px;line-height:1.3;font-weight:650}
section+section,.nets section{margin-top:12px}
.bar{display:flex;height:26px;border-radius:6px;overflow:hidden;gap:1px;background:var(--lane);margin:4px 0 12px}
.bar i{display:block}
.key{display:flex;flex-wrap:wrap;gap:4px 18px}.key span{display:inline-flex;align-items:center;gap:6px}
.key i{width:11px;height:11px;border-radius:3px;flex:none}
.head{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;margin-bottom:8px}
.lane{display:grid;grid-template-columns:104px 1fr;align-items:center;margin-top:4px}
.lane svg,.curve svg{display:block;width:100%;background:var(--lane);border-radius:4px}
.lane svg{height:26px}.lane.thin svg{height:10px}
.axis{position:relative;height:18px;margin-left:104px}.axis span{position:absolute;transform:translateX(-50%);
font-size:12px;color:var(--soft);white-space:nowrap}.axis span:first-child{transform:none}
.axis span:last-child{transform:translateX(-100%)}
.weights{background:var(--weights);fill:var(--weights)}.kv{background:var(--kv);fill:var(--kv)}
.lm_head{background:var(--lm_head);fill:var(--lm_head)}.other{background:var(--other);fill:var(--other)}
.host{background:var(--host);fill:var(--host)}.device{background:var(--device);fill:var(--device)}
.idle{background:var(--idle);fill:var(--idle)}
.curve svg{height:150px}.curve .axis{margin-left:0}.curve path{fill:none;stroke:var(--weights);stroke-width:2.5;
vector-effect:non-scaling-stroke}.curve .area{fill:var(--weights);opacity:.14;stroke:none}
@media(max-width:640px){main{padding:18px 12px 32px}h1{font-size:20px}.figures{grid-template-columns:1fr 1fr;gap:8px}
.figure{padding:10px 12px}.figure b{font-size:19px}.lane{grid-template-columns:1fr}.axis{margin-left:0}
.axis span:nth-child(even):not(:last-child){display:none}.lane{margin-top:6px}.lane .soft{line-height:1.3}}
"""


def html(page: ChartPage) -> str:
    """The whole document."""
    body = "\n".join(
        [
            f"<h1>{escape(page.title)}</h1>",
            f"<p>{escape(page.subtitle)}</p>",
            f'<div class="figures">{"".join(map(_figure, page.figures))}</div>',
            *_shares(page.shares),
            *(_curve(page.curve, page.context) if page.curve else ()),
            "<h2>Timelines</h2>",
            f"<p>{EXPLANATION}</p>",
            '<div class="nets">',
            f"<section>{_key(parts_of(page.nets))}</section>",
            *map(_net, page.nets),
            "</div>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _figure(figure: Figure) -> str:
    return (
        f'<div class="figure"><small>{escape(figure.label)}</small><b>{escape(figure.text)}</b>'
        f"<small>{escape(figure.remark)}</small></div>"
    )


def _shares(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Iterator[str]:
    yield "<section>"
    parts: dict[str, list[str]] = {}
    for title, shares in rows:
        total = sum(shares.values())
        pieces = "".join(
            f'<i class="{part}" style="width:{share / total:.3%}" title="{PART_LABELS[part]} {share:.1%}"></i>'
            for part, share in shares.items()
            if share > SMALLEST_SHARE
        )
        yield f'<span class="soft">{escape(title)}</span><div class="bar">{pieces}</div>'
        for part, share in shares.items():
            parts.setdefault(part, []).append(f"{share:.1%}")
    entries = "".join(
        f'<span><i class="{part}"></i>{PART_LABELS[part]} <small>{" · ".join(texts)}</small></span>'
        for part, texts in parts.items()
    )
    yield f'<div class="key">{entries}</div></section>'


def _key(parts: Iterable[str]) -> str:
    entries = "".join(f'<span><i class="{part}"></i>{PART_LABELS[part]}</span>' for part in parts)
    return f'<div class="key">{entries}</div>'


def parts_of(nets: Iterable[ChartNet]) -> list[str]:
    """The parts that are drawn, in the order of the key."""
    drawn = {command.part for net in nets for command in net.timeline.commands}
    return [part for part in PARTS if part in drawn] + ["idle"]


def round_ticks(cycles: int) -> list[int]:
    """Round times from 0 on, and the end itself; none so close to the end that the two would touch."""
    step = next(
        size * 10**power
        for power in range(3, 10)
        for size in (1, 2, 5)
        if cycles / (size * 10**power) <= TICKS
    )
    return [*range(0, int(cycles - 0.6 * step), step), cycles]


def _curve(curve: Sequence[tuple[int, float]], context: int) -> Iterator[str]:
    """Cost of a token over the history, from zero up."""
    top = max(seconds for _, seconds in curve) * 1.15
    points: list[tuple[float, float]] = []
    ends = [start for start, _ in curve[1:]] + [context]
    for (start, seconds), end in zip(curve, ends, strict=True):
        points += [(at / context * WIDTH, (1 - seconds / top) * 100) for at in (start, end)]
    line = " ".join(f"{x:.1f},{y:.2f}" for x, y in points)
    steps = ", ".join(f"{seconds * 1e3:.2f} ms from {start:,} on" for start, seconds in curve)
    yield (
        "<h2>A token as the history grows</h2>"
        f"<p>By cached tokens: {steps}.</p>"
        '<section class="curve">'
        f'<svg viewBox="0 0 {WIDTH} 100" preserveAspectRatio="none" role="img" aria-label="cost of a token">'
        f'<path class="area" d="M0,100 L{line} L{WIDTH},100 Z"/><path d="M{line}"/></svg>'
    )
    marks = [start for start, _ in _thinned(curve, context) if context - start > context / CROWDED]
    spans = "".join(f'<span style="left:{mark / context:.2%}">{mark:,}</span>' for mark in [*marks, context])
    yield f'<div class="axis">{spans}</div></section>'


def _thinned(curve: Sequence[tuple[int, float]], context: int) -> list[tuple[int, float]]:
    """Steps of the curve whose marks do not touch."""
    kept = [curve[0]]
    for step in curve[1:]:
        if step[0] - kept[-1][0] > context / CROWDED:
            kept.append(step)
    return kept


def _net(net: ChartNet) -> str:
    drawn, t = lanes(net.timeline), net.timeline
    rows = [
        _lane("memory bus", drawn.bus, drawn.cycles),
        _lane("compute", drawn.compute, drawn.cycles),
        _lane("bus idle", drawn.idle, drawn.cycles, thin=True),
    ]
    ticks = "".join(
        f'<span style="left:{at / t.cycles:.2%}">{at / 1e3:,.0f}{" µs" if at == t.cycles else ""}</span>'
        for at in round_ticks(t.cycles)
    )
    facts = (
        f"bus busy {t.bus_busy / t.cycles:.1%}, compute {t.compute_busy / t.cycles:.1%}, "
        f"both at once {t.both_busy / t.cycles:.1%}, bus idle {1 - t.bus_busy / t.cycles:.1%}"
    )
    return (
        f'<section><div class="head"><h3>{escape(net.title)}</h3><small>{escape(net.remark)}</small>'
        f'<small>{facts}</small></div>{"".join(rows)}<div class="axis">{ticks}</div></section>'
    )


def _lane(label: str, runs: Iterable[Run], cycles: int, *, thin: bool = False) -> str:
    pieces = "".join(rectangle(run, cycles, WIDTH, LANE) for run in runs)
    return (
        f'<div class="lane{" thin" if thin else ""}"><span class="soft">{label}</span>'
        f'<svg viewBox="0 0 {WIDTH} {LANE}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{pieces}</svg></div>"
    )


def rectangle(run: Run, cycles: int, width: float, height: float, x: float = 0, y: float = 0) -> str:
    """A run as SVG, with its names for whoever points at it."""
    left, long = x + run.start / cycles * width, (run.end - run.start) / cycles * width
    dense = max(FAINTEST, run.busy / max(1, run.end - run.start))
    names = ", ".join(run.names) if run.names else PART_LABELS[run.part]
    moved = f", {run.bytes / 1e3:,.0f} kB" if run.bytes else ""
    opacity = "" if dense > 0.99 else f' opacity="{dense:.2f}"'
    return (
        f'<rect class="{run.part}" x="{left:.1f}" y="{y:g}" width="{max(long, 0.5):.1f}" height="{height:g}"{opacity}>'
        f"<title>{escape(names)}: {run.start / 1e3:,.1f} to {run.end / 1e3:,.1f} µs{moved}</title></rect>"
    )
