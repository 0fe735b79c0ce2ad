"""What the compiler says of a net's time on the chip: the sums of a launch, and every command, in cycles of 1 ns."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bmqwen.errors import CompileError

PartName = Literal["weights", "kv", "lm_head", "other"]
PARTS: tuple[PartName, ...] = ("weights", "kv", "lm_head", "other")
# A line holds a command of the compute units, one of the memory bus, or both; only the latter has a direction (dr).
_COMMAND = re.compile(r"(\w+)\|\w+\|s:(\d+)\|b:\d+\|g:\d+\|e:(\d+)\|t:\d+(?:\|dr:(\d)\|sz:(\d+))?")
# Between the chip's local memories: occupies the engine, not the memory bus.
_LOCAL = "3"
# Names of values that the head makes.
_HEAD = ("lm_head", "model.embed_tokens", "logits", "m_logits", "token_id", "twice", "last_hidden")
_CYCLES = re.compile(r"^API_END total_cycle:(\d+)", re.MULTILINE)
_TRAFFIC = re.compile(r"^GDMA SUMMARY.*S2L:(\d+).*L2S:(\d+).*S2S:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Profile:
    """One launch of a net.

    Attributes:
        cycles: of 1 ns.
        bytes_read, bytes_written: between device memory and the core.
        bytes_copied: inside of device memory.
        bus_idle: cycles in which the memory bus does nothing.
        part_cycles, part_bytes: cycles and bytes of each part of the model: weights, kv, lm_head, other. Empty where
            the compiler left no timeline.
    """

    cycles: int
    bytes_read: int
    bytes_written: int
    bytes_copied: int
    bus_idle: int = 0
    part_cycles: dict[str, int] = field(default_factory=dict)
    part_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_moved(self) -> int:
        """Over the memory bus: what is copied inside of device memory goes both ways."""
        return self.bytes_read + self.bytes_written + 2 * self.bytes_copied

    def __add__(self, other: "Profile") -> "Profile":
        """Return the profile of both after each other."""

        def total(mine: Any, its: Any) -> Any:
            if isinstance(mine, dict):
                return {part: mine.get(part, 0) + its.get(part, 0) for part in mine | its}
            return mine + its

        return Profile(*map(total, astuple(self), astuple(other)))

    def without(self, part: PartName) -> "Profile":
        """Return the profile of the net without a part of the model, which mostly reads its weights."""
        cycles, size = self.part_cycles.get(part, 0), self.part_bytes.get(part, 0)
        return replace(
            self,
            cycles=self.cycles - cycles,
            bytes_read=max(0, self.bytes_read - size),
            part_cycles={name: count for name, count in self.part_cycles.items() if name != part},
            part_bytes={name: count for name, count in self.part_bytes.items() if name != part},
        )

    def extended(self, longer: "Profile", layers: int) -> "Profile":
        """Return the profile of the net with more layers: this one has one layer, `longer` has two of equal ones."""

        def line(one: Any, two: Any) -> Any:
            if isinstance(one, dict):
                return {part: line(count, two.get(part, count)) for part, count in one.items()}
            return one + (two - one) * (layers - 1)

        return Profile(*map(line, astuple(self), astuple(longer)))

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "Profile":
        """Read it from what `dataclasses.asdict` made, other keys ignored. Raises KeyError, TypeError or ValueError."""
        parts = [
            {str(part): int(count) for part, count in stated.get(name, {}).items()}
            for name in ("part_cycles", "part_bytes")
        ]
        sums = [int(stated[name]) for name in ("cycles", "bytes_read", "bytes_written", "bytes_copied")]
        values: list[Any] = [*sums, int(stated.get("bus_idle", 0)), *parts]
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Command:
    """One command, which serves a part of the model.

    Attributes:
        operation: the operation's name in the compiler's final text ("A16MatMul_107").
        bus: it is one of the memory bus, else one of the compute units.
        start, end: cycles, the end not included. Commands of one kind never overlap.
        bytes: moved between device memory and the core, or inside device memory.
    """

    operation: str
    part: PartName
    bus: bool
    start: int
    end: int
    bytes: int


@dataclass(frozen=True)
class Timeline:
    """All commands of one launch, in order of their start; `names` of the values that each operation computes."""

    cycles: int
    commands: tuple[Command, ...]
    names: Mapping[str, str]

    @cached_property
    def bus_busy(self) -> int:
        """Cycles in which the memory bus works."""
        return sum(c.end - c.start for c in self.commands if c.bus)

    def cycles_by_part(self) -> dict[str, int]:
        """Return cycles by part; their sum is `cycles`. A cycle is of what the bus moves, else of what is computed."""
        found = self.cycles_by(lambda command: command.part)
        return {part: found.get(part, 0) for part in PARTS}

    def cycles_by(self, label: Callable[[Command], str]) -> dict[str, int]:
        """Return cycles by the labels of commands, likewise; "other" has those in which there is none."""
        labels = ["other", *(label(c) for c in self.commands)]
        every = list(dict.fromkeys(labels))
        places = {name: place for place, name in enumerate(every)}
        spans = np.array([(c.start, c.end) for c in self.commands], np.int64).reshape(-1, 2)
        edges = np.unique(np.concatenate([spans.ravel(), [0, self.cycles]]))
        edges = edges[edges <= self.cycles]
        found = np.zeros(len(edges) - 1, np.int64)
        # What the bus does comes last, and takes the place of what is computed meanwhile.
        placed = zip(self.commands, labels[1:], np.searchsorted(edges, spans), strict=True)
        for _, name, (first, last) in sorted(placed, key=lambda one: one[0].bus):
            found[first:last] = places[name]
        sums = np.bincount(found, weights=np.diff(edges), minlength=len(every))
        return {name: int(total) for name, total in zip(every, sums, strict=True)}

    def bytes_by_part(self) -> dict[str, int]:
        """Return the bytes over the memory bus by part; what is copied inside of device memory counts once."""
        sums: dict[str, int] = dict.fromkeys(PARTS, 0)
        for command in self.commands:
            sums[command.part] += command.bytes
        return sums


def read_profile(path: Path) -> Profile:
    """Read the sums of a net's launch from `compiler_profile_0.txt`. Raises CompileError if there are none."""
    text = _read(path)
    cycles, traffic = _CYCLES.findall(text), _TRAFFIC.findall(text)
    if not cycles or not traffic:
        raise CompileError(f"{path} has no total of cycles and bytes: the compiler did not finish it")
    # One summary a static part of the net; ours have one.
    read, written, copied = (sum(int(row[i]) for row in traffic) for i in range(3))
    timeline = _timeline(text, path.parent) if len(cycles) == 1 else None
    if timeline is None or not timeline.commands:
        return Profile(sum(map(int, cycles)), read, written, copied)
    idle = timeline.cycles - timeline.bus_busy
    parts = timeline.cycles_by_part(), timeline.bytes_by_part()
    return Profile(timeline.cycles, read, written, copied, idle, *parts)


def read_timeline(path: Path) -> Timeline:
    """Read `compiler_profile_0.txt` and, where it lies beside it, the list of operations `NAME.bmodel.json`.

    Raises CompileError: no such file, or one of several launches, whose times each begin at 0.
    """
    text = _read(path)
    launches = len(_CYCLES.findall(text))
    if launches != 1:
        raise CompileError(f"{path} holds {launches} launches in place of one")
    return _timeline(text, path.parent)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise CompileError(f"the compiler left no timing in {path}: {error.strerror}") from error


def _timeline(text: str, folder: Path) -> Timeline:
    operations = _operations(folder)
    commands = []
    for name, start, end, direction, size in _COMMAND.findall(text):
        part, _ = operations.get(name, ("other", ""))
        bus = direction not in ("", _LOCAL)
        commands.append(Command(name, part, bus, int(start), int(end) + 1, int(size) if bus else 0))
    commands.sort(key=lambda c: (c.start, c.end))
    names = {name: values for name, (_, values) in operations.items()}
    return Timeline(int(_CYCLES.findall(text)[0]), tuple(commands), names)


def _operations(folder: Path) -> dict[str, tuple[PartName, str]]:
    """Part and values of each operation, by the name that the timeline calls it."""
    found: dict[str, tuple[PartName, str]] = {}
    # A few fields of the vendor's own notes: without them the timeline only has no parts.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
        for entry in json.loads(next(folder.glob("*.bmodel.json")).read_bytes()):
            kind = str(entry["opcode"]).rpartition(".")[2]
            said = ", ".join(str(value["name"]) for value in entry["results"] if value)
            found[f"{kind}_{entry['file-line']}"] = (part_of(kind, said), said)
    return found


def part_of(kind: str, values: str) -> PartName:
    """Return the part of the model that an operation serves, by its kind ("A16MatMul") and the values it computes."""
    if values.removeprefix("load_").startswith(_HEAD):
        return "lm_head"
    if "MatMul" in kind or (kind == "Load" and "_proj." in values and "weight" in values):
        return "weights"
    if "Attention" in kind or (kind == "Concat" and ".all" in values):
        return "kv"
    return "other"
