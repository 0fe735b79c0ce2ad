"""What launches cost: on one chip, or on several that have a part of the model each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

from bmqwen.artifact.row_pool import Placement
from bmqwen.artifact.steps import StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec, Host
from bmqwen.compiler.timing import Profile

# What the step runtime asks of the device for a launch: its inputs in one copy, and the launch itself. Reading what
# comes of it, four bytes for the likeliest token, is one more.
LAUNCH_OPS, READ_OPS = 2, 1


@dataclass(slots=True)
class Cost:
    """Sums over launches: ns on the chip, calls of the host, bytes over the memory bus, all by part of the model.

    `python_ms` is this program's own time on the machine that it was measured on.
    `overlap_ms`: in which several parts of a model compute at once, counted for each of them above.
    `copied_bytes` are those of K/V rows that the chip copied to their place after they were computed; `handed_bytes`
    those of hidden rows that the host read from a chip and wrote to the next.
    """

    device_ns: int = 0
    host_ops: int = 0
    python_ms: float = 0.0
    bytes_moved: int = 0
    bus_idle_ns: int = 0
    copied_bytes: int = 0
    handed_bytes: int = 0
    overlap_ms: float = 0.0
    part_ns: dict[str, int] = field(default_factory=dict)
    part_bytes: dict[str, int] = field(default_factory=dict)
    chip: ChipSpec = DEFAULT_CHIP

    def add(self, profile: Profile, host_ops: int, times: int = 1) -> None:
        """Count launches of a net, and the calls that they take together."""
        self.device_ns += times * profile.cycles
        self.host_ops += host_ops
        self.bytes_moved += times * profile.bytes_moved
        self.bus_idle_ns += times * profile.bus_idle
        for mine, its in ((self.part_ns, profile.part_cycles), (self.part_bytes, profile.part_bytes)):
            for part, count in its.items():
                mine[part] = mine.get(part, 0) + times * count

    def copy(self, size: int) -> None:
        """Count a copy of K/V rows, which the compiler's timing does not know of."""
        spent = round(size / self.chip.copy * 1e9)
        self.copied_bytes += size
        parts = ({"kv": spent}, {"kv": 2 * size}) if self.part_ns else ({}, {})
        self.add(Profile(spent, 0, 0, size, 0, *parts), 0)

    def seconds(self, host: Host) -> float:
        """Return the time until the last call has returned: the chip and its host do not work at the same time."""
        python = self.python_ms * host.python_factor
        return self.device_ns / 1e9 + (self.calls_ms(host) + python - self.overlap_ms) / 1e3

    def calls_ms(self, host: Host) -> float:
        """Return what calls of the host take, and what is handed from chip to chip on its two ways."""
        return self.host_ops * host.op_ms + 2 * self.handed_bytes / host.copy * 1e3


@dataclass(frozen=True)
class Chips:
    """The chips that a model is on.

    Attributes:
        parts: the profiles of the nets of each.
        row_bytes: of a token's keys and values, all layers.
        hidden_bytes: of a token's hidden row, which is handed from chip to chip.
        state_bytes: of what recurrent layers remember and is copied to its place after a launch, by the net's tokens.
    """

    parts: Sequence[Mapping[StepShape, Profile]]
    row_bytes: int = 0
    hidden_bytes: int = 0
    state_bytes: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def profiles(self) -> Mapping[StepShape, Profile]:
        """What the nets of all parts take together."""
        return {shape: reduce(add, (part[shape] for part in self.parts)) for shape in self.parts[0]}

    def count(self, spent: Cost, placement: Placement, tokens: int, rows: int) -> None:
        """Count a launch for so many tokens, in a cache of so many rows.

        K/V rows go to their place by a copy, unless the net left them there. On several chips there is a launch on
        each. Between two of them the hidden rows are read, and written with the other inputs of the next launch.
        """
        after = len(self.parts) - 1
        spent.add(self.profiles[placement.shape], (after + 1) * LAUNCH_OPS + after * READ_OPS)
        spent.handed_bytes += after * tokens * self.hidden_bytes
        if size := self._copied(placement, rows):
            spent.copy(size)

    def times_ms(
        self, placement: Placement, tokens: int, rows: int, host: Host, chip: ChipSpec
    ) -> list[float]:
        """Return the milliseconds of such a launch on each chip, in which no other launch can be there."""
        last = len(self.parts) - 1
        hand_over, copied = tokens * self.hidden_bytes / host.copy * 1e3, self._copied(placement, rows)
        shared = LAUNCH_OPS * host.op_ms + copied / chip.copy * 1e3 / (last + 1)
        return [
            part[placement.shape].cycles / 1e6
            + shared
            + (READ_OPS * host.op_ms + hand_over if number < last else 0.0)
            + (hand_over if number else 0.0)
            for number, part in enumerate(self.parts)
        ]

    def _copied(self, placement: Placement, rows: int) -> int:
        there = placement.row == placement.shape.landing(rows)
        tokens = placement.shape.tokens
        return self.state_bytes.get(tokens, 0) + (0 if there else tokens * self.row_bytes)


class Pipeline:
    """Tells when launches that go through several chips are done: each chip takes them in their order."""

    def __init__(self, chips: int) -> None:
        self._free = [0.0] * chips

    def launch(self, begun: float, times: Sequence[float]) -> float:
        """Return the time when a launch is through, which takes so long on each chip; all of it in one unit."""
        end = begun
        for number, taken in enumerate(times):
            end = self._free[number] = max(end, self._free[number]) + taken
        return end
