"""An estimate's timelines as a picture for documents."""

from collections.abc import Iterator
from html import escape

from bmqwen.estimate.chart_html import parts_of, rectangle, round_ticks
from bmqwen.estimate.chart_page import PART_LABELS, ChartNet, ChartPage
from bmqwen.estimate.lanes import lanes

WIDTH, MARGIN, LABEL = 1200, 28, 96
TOP, NET = 132, 132
COLOURS = {
    "weights": "#3b82f6",
    "kv": "#0fa679",
    "lm_head": "#a259f0",
    "other": "#e69a16",
    "idle": "#e5484d",
}
KEY_STEP = 210


def svg(page: ChartPage) -> str:
    """The whole document, light on any background."""
    height = TOP + NET * len(page.nets) + MARGIN
    style = "".join(f".{part}{{fill:{colour}}}" for part, colour in COLOURS.items())
    body = "".join(_head(page)) + "".join(
        "".join(_net(net, TOP + NET * row)) for row, net in enumerate(page.nets)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui,Segoe UI,Noto Sans,sans-serif" font-size="14" fill="#16181d">'
        f"<style>{style}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{body}</svg>\n'
    )


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {attributes}>{escape(text)}</text>'


def _head(page: ChartPage) -> Iterator[str]:
    yield _text(MARGIN, 38, page.title, 'font-size="21" font-weight="650"')
    figures = " · ".join(f"{f.label} {f.text}" for f in page.figures)
    yield _text(MARGIN, 64, f"{page.subtitle} {figures}", 'fill="#5d6572"')
    for i, part in enumerate(parts_of(page.nets)):
        x = MARGIN + KEY_STEP * i
        yield f'<rect class="{part}" x="{x}" y="86" width="12" height="12" rx="3"/>'
        yield _text(x + 18, 97, PART_LABELS[part], 'fill="#5d6572"')


def _net(net: ChartNet, y: int) -> Iterator[str]:
    drawn, t = lanes(net.timeline), net.timeline
    left, width = MARGIN + LABEL, WIDTH - 2 * MARGIN - LABEL
    yield _text(MARGIN, y + 14, net.title, 'font-weight="650"')
    facts = (
        f"{net.remark}; bus idle {1 - t.bus_busy / t.cycles:.1%}, both at once {t.both_busy / t.cycles:.1%}"
    )
    yield _text(WIDTH - MARGIN, y + 14, facts, 'fill="#5d6572" text-anchor="end"')
    for label, runs, top, height in (
        ("memory bus", drawn.bus, 24, 24),
        ("compute", drawn.compute, 52, 24),
        ("bus idle", drawn.idle, 80, 10),
    ):
        yield f'<rect x="{left}" y="{y + top}" width="{width}" height="{height}" rx="3" fill="#eef0f4"/>'
        yield _text(MARGIN, y + top + height / 2 + 5, label, 'fill="#5d6572" font-size="13"')
        yield from (rectangle(run, t.cycles, width, height, left, y + top) for run in runs)
    for at in round_ticks(t.cycles):
        anchor = "start" if at == 0 else "end" if at == t.cycles else "middle"
        yield _text(
            left + width * at / t.cycles,
            y + 106,
            f"{at / 1e3:,.0f}{' µs' if at == t.cycles else ''}",
            f'fill="#5d6572" font-size="12" text-anchor="{anchor}"',
        )
