"""The step nets of a bmodel bundle: which lengths a context gets, and which of them a prompt is best fed with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from bmqwen.chip.spec import DEFAULT_CHIP, spec_of
from bmqwen.errors import BundleError, InputError
from bmqwen.model.config import ModelConfig
from bmqwen.util.text import counted

# Lengths of steps, and the histories that each has a net of its own for, besides the context's. 0 begins a
# conversation. Decoding is worth the most of them: its cost is all reading, a history of 384 in place of 512 saves 3 %
# of it. A long step's cost grows with what it looks at, a short one's hardly.
SHORT_STEP = (0, 512, 2048, 8192)
HISTORIES: dict[int, tuple[int, ...]] = {
    512: (0, 512, 1024, 2048, 4096, 8192, 16384),
    128: SHORT_STEP,
    64: SHORT_STEP,
    32: SHORT_STEP,
    8: SHORT_STEP[1:],
    1: (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384),
}
SHORTEST = 32
MULTIPLE = 8
# The cost of what there is no net for, in ns.
NEVER = 1 << 60
# Rows of the longest context that a manifest may name.
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """A net's lengths: `tokens` new ones after up to `history` cached ones."""

    tokens: int
    history: int

    def __str__(self) -> str:
        return f"{counted(self.tokens, 'token')} after {self.history}"


def step_shapes(context: int) -> tuple[StepShape, ...]:
    """The nets for a K/V cache of `context` rows, the longest steps first: what those need on the chip is the most.

    A net of C tokens writes C rows at its position, so position + C <= context.
    """
    shapes = [
        StepShape(tokens, history)
        for tokens in HISTORIES
        if tokens <= context
        for history in _histories(tokens, context)
    ]
    return tuple(sorted(shapes, reverse=True))


def check_context(config: ModelConfig, context: int) -> None:
    """Raise InputError unless nets can be made for a context of that many tokens."""
    longest = config.max_position_embeddings
    if not SHORTEST <= context <= longest or context % MULTIPLE:
        raise InputError(
            f"--seq-len {context} cannot be compiled: choose a multiple of {MULTIPLE} "
            f"from {SHORTEST} to {longest // MULTIPLE * MULTIPLE} for this model"
        )


def _histories(tokens: int, context: int) -> list[int]:
    """Lengths of history that a net of so many tokens is made for, up to `context`."""
    # One hardly shorter than the whole is not worth its compilation.
    below = [history for history in HISTORIES[tokens] if 4 * history <= 3 * context]
    # As long as the context, a step has its place at the beginning only.
    return below if tokens == context and 0 in below else [*below, context]


class _Table(NamedTuple):
    """For each position: the history of the net to use (-1: none), and what its launch costs in ns."""

    histories: list[int]
    costs: list[int]


@dataclass(frozen=True)
class StepNets:
    """The net `name` of a bmodel and its stages, one for each shape; all share weights and K/V memory.

    Attributes:
        context: rows of the K/V cache; a step writes all its `tokens` rows, so position + tokens <= context.
        cycles: predicted time of each shape in ns (cycles of 1 GHz), from the compiler's timing.
        half: "f16" or "bf16", the type of states, mask and K/V.
        toolchain: version of the compiler.
    """

    context: int
    cycles: Mapping[StepShape, int]
    half: str = "f16"
    chip: str = DEFAULT_CHIP.name
    toolchain: str = ""
    name: str = "step"

    def shape(self, tokens: int, position: int) -> StepShape | None:
        """The net for `tokens` rows at a position: the one with the shortest history that holds it. None: too long.

        A net reads its new rows from where its history ends; they are written at the position. In a history shorter
        than the context the two places must not overlap, unless they are the same.
        """
        table = self._tables.get(tokens)
        history = table.histories[position] if table and position < self.context else -1
        return None if history < 0 else StepShape(tokens, history)

    def plan(self, position: int, count: int) -> list[tuple[StepShape, int]]:
        """Return the cheapest sequence of nets that feeds `count` tokens after `position`, with what each takes.

        Raises InputError (they do not fit into the context), BundleError (there is no net for one of them).
        """
        end = position + count
        if position < 0 or count < 1 or end > self.context:
            raise InputError(f"{count} tokens after {position} do not fit into a context of {self.context}")
        # A* search: the bounds tell what the rest costs at least.
        least, waste = self._bounds
        costs = [(tokens, table.costs) for tokens, table in self._tables.items()]
        spent, came = {position: 0}, {position: (position, 0)}
        ahead: list[tuple[float, int]] = [(0.0, -position)]
        done: set[int] = set()
        while ahead:
            at = -heappop(ahead)[1]
            if at == end:
                break
            if at in done:
                continue
            done.add(at)
            for tokens, cost in costs:
                total, to = spent[at] + cost[at], min(at + tokens, end)
                if total < spent.get(to, NEVER):
                    spent[to], came[to] = total, (at, tokens)
                    heappush(ahead, (total - least[to] + waste[end - to], -to))
        if end not in came:
            raise BundleError(f"the bundle has no sequence of nets for {count} tokens after {position}")
        row: list[tuple[StepShape, int]] = []
        while end > position:
            at, tokens = came[end]
            row.append((StepShape(tokens, self._tables[tokens].histories[at]), end - at))
            end = at
        return row[::-1]

    @cached_property
    def _tables(self) -> dict[int, "_Table"]:
        """What each length of step takes at each position, the longest first."""
        tables = {}
        call_ns = round(1e6 * spec_of(self.chip, "the bundle").host.op_ms)
        for tokens in sorted({s.tokens for s in self.cycles if s.tokens <= self.context}, reverse=True):
            histories = np.full(self.context, -1)
            costs = np.full(self.context, NEVER)
            room = max(0, self.context - tokens + 1)
            # The shorter history comes later and takes the place of the longer one.
            for shape in sorted((s for s in self.cycles if s.tokens == tokens), reverse=True):
                history = shape.history
                clear = room if history == self.context else max(0, history - tokens + 1)
                for places in (slice(0, clear), slice(history, min(history + 1, room))):
                    histories[places], costs[places] = history, self.cycles[shape] + call_ns
            tables[tokens] = _Table(histories.tolist(), costs.tolist())
        return tables

    @cached_property
    def _bounds(self) -> tuple[list[float], list[float]]:
        """The least that the tokens before a position can cost, and the least that so many cost beyond that, in ns.

        The first counts each token as in the cheapest launch that may feed it. The second is what launches cost more
        than that, wherever they are: a prompt of any length that is cut into them wastes as much.
        """
        rates = np.full(self.context, np.inf)
        for tokens, table in self._tables.items():
            # Of a launch at a position, for each of the tokens from there on.
            costs = np.array(table.costs, np.float64) / tokens
            for start in range(tokens):
                np.minimum(rates[start:], costs[: self.context - start], out=rates[start:])
        least = np.concatenate([[0.0], np.cumsum(rates)])
        more = []
        for tokens, table in self._tables.items():
            costs = np.array(table.costs[: self.context - tokens + 1], np.float64)
            extra = float((costs - least[tokens:] + least[:-tokens]).min(initial=NEVER))
            more.append((tokens, max(0.0, extra)))
        waste, rate = [0.0], float(rates.min())
        for count in range(1, self.context + 1):
            waste.append(
                min(extra + (waste[count - n] if n <= count else (n - count) * rate) for n, extra in more)
            )
        return least.tolist(), waste

    def to_dict(self) -> dict[str, Any]:
        """For a manifest's details."""
        return {
            "chip": self.chip,
            "net": self.name,
            "half": self.half,
            "context": self.context,
            "toolchain": self.toolchain,
            "stages": [
                {"tokens": s.tokens, "history": s.history, "cycles": n}
                for s, n in sorted(self.cycles.items())
            ],
        }

    @classmethod
    def from_dict(cls, details: Mapping[str, Any], source: str) -> "StepNets":
        """From a manifest's details. Raises BundleError for values that make no sense, or another chip."""
        try:
            stages: Sequence[Mapping[str, Any]] = details["stages"]
            nets = cls(
                context=int(details["context"]),
                cycles={StepShape(int(s["tokens"]), int(s["history"])): int(s["cycles"]) for s in stages},
                half=str(details["half"]),
                chip=str(details["chip"]),
                toolchain=str(details["toolchain"]),
                name=str(details["net"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{source}: the description of the nets is damaged ({error!r})") from error
        spec_of(nets.chip, source)
        whole = 1 <= nets.context <= LONGEST and nets.shape(1, 0) and nets.shape(1, nets.context - 1)
        if nets.half not in ("f16", "bf16") or not whole:
            raise BundleError(f"{source}: the nets do not make up a whole model")
        return nets
