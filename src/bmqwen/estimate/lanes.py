"""A timeline as what can be seen of it: runs of alike commands, and gaps, no finer than a screen is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bmqwen.compiler.timeline import Command, Timeline

# Shorter than this part of the width nothing is told apart.
FINEST = 1 / 1400
NAMES = 3


@dataclass(slots=True)
class Run:
    """Neighbouring pieces of one kind.

    Attributes:
        part: of the model; "idle" for gaps.
        start, end: cycles.
        busy: cycles in which something runs.
        bytes: moved.
        names: of its first operations.
    """

    part: str
    start: int
    end: int
    busy: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lanes:
    """What is drawn of a timeline.

    Attributes:
        cycles: width.
        bus, compute: commands of each kind.
        idle: where the memory bus waits.
    """

    cycles: int
    bus: tuple[Run, ...]
    compute: tuple[Run, ...]
    idle: tuple[Run, ...]


def first_layer(timeline: Timeline) -> Timeline:
    """The part of a net's timeline before its head begins; all of it where there is none."""
    head = [c.start for c in timeline.commands if c.part == "lm_head"]
    if not head or min(head) == 0:
        return timeline
    end = min(head)
    kept = tuple(
        Command(c.operation, c.part, c.bus, c.start, min(c.end, end), c.bytes)
        for c in timeline.commands
        if c.start < end
    )
    return Timeline(end, kept, timeline.names)


def lanes(timeline: Timeline) -> Lanes:
    """Runs of a timeline."""
    finest = timeline.cycles * FINEST
    bus = [c for c in timeline.commands if c.bus]
    compute = [c for c in timeline.commands if not c.bus]
    return Lanes(
        timeline.cycles,
        tuple(_joined(_pieces(bus, timeline), finest)),
        tuple(_joined(_pieces(compute, timeline), finest)),
        tuple(_joined(_gaps(bus, timeline.cycles), finest)),
    )


def _pieces(commands: Iterable[Command], timeline: Timeline) -> Iterator[Run]:
    for c in commands:
        name = timeline.names.get(c.operation) or c.operation
        yield Run(c.part, c.start, c.end, c.end - c.start, c.bytes, [name])


def _gaps(commands: Iterable[Command], cycles: int) -> Iterator[Run]:
    last = 0
    for c in commands:
        if c.start > last:
            yield Run("idle", last, c.start, c.start - last)
        last = max(last, c.end)
    if cycles > last:
        yield Run("idle", last, cycles, cycles - last)


def _joined(pieces: Iterable[Run], finest: float) -> Iterator[Run]:
    """Pieces of one part whose distance cannot be seen are one; `busy` still tells how dense it is."""
    run: Run | None = None
    for piece in pieces:
        # Of another part, but too short to be seen: it goes with its neighbours.
        alike = run is not None and (piece.part == run.part or piece.end - run.end < finest)
        if run is None or not alike or piece.start - run.end >= finest:
            if run is not None:
                yield run
            run = piece
            continue
        run.end, run.busy, run.bytes = piece.end, run.busy + piece.busy, run.bytes + piece.bytes
        if piece.names and len(run.names) <= NAMES and piece.names[0] not in run.names:
            run.names += piece.names
    if run is not None:
        yield run
