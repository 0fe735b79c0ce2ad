"""The nets' timelines as Chrome trace events, which chrome://tracing and https://ui.perfetto.dev open."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bmqwen.compiler.timing import Timeline
from bmqwen.estimate.estimate import Estimate
from bmqwen.util.storage import write_file

# Threads of a net's process, as they are shown. Numbers begin at 1: viewers take process and thread 0 for idle.
BUS, COMPUTE, IDLE = 1, 2, 3
LANES = {BUS: "memory bus", COMPUTE: "compute", IDLE: "bus idle"}


def write_trace(estimate: Estimate, path: Path) -> None:
    """Write all timelines, a process a net. Raises StorageError where the file cannot be written."""
    events: list[dict[str, Any]] = []
    for process, (shape, timeline) in enumerate(estimate.timelines.items(), 1):
        name = f"{shape}: 1 of {estimate.layers} layers, and the head"
        events += ({**event, "pid": process} for event in (_named("process", name), *_events(timeline)))
    about = {key: value for key, value in estimate.to_dict().items() if isinstance(value, (str, int, float))}
    document = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}
    write_file(path, json.dumps(document, separators=(",", ":")).encode())


def _events(timeline: Timeline) -> Iterator[Mapping[str, Any]]:
    for thread, lane in LANES.items():
        yield {**_named("thread", lane), "tid": thread}
    last = 0
    for c in timeline.commands:
        name = timeline.names.get(c.operation) or c.operation
        about = {"part": c.part, "operation": c.operation} | ({"bytes": c.bytes} if c.bytes else {})
        yield _span(name, c.part, BUS if c.bus else COMPUTE, c.start, c.end) | {"args": about}
        if c.bus:
            if c.start > last:
                yield _span("idle", "idle", IDLE, last, c.start)
            last = max(last, c.end)
    if timeline.cycles > last:
        yield _span("idle", "idle", IDLE, last, timeline.cycles)


def _span(name: str, category: str, thread: int, start: int, end: int) -> dict[str, Any]:
    """From one cycle to another, in µs."""
    return {
        "ph": "X", "name": name, "cat": category, "tid": thread, "ts": start / 1e3, "dur": (end - start) / 1e3
    }  # fmt: skip


def _named(what: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": f"{what}_name", "args": {"name": name}}
