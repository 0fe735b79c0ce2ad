"""The step nets of a bmodel bundle: which lengths a context gets, and which of them a prompt is best fed with."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
# Steps that also give results of several rows, one for each token: drafts to be checked, conversations side by side.
# Their cost is all reading, too.
EVERY_ROW = (8, 16)
DRAFT_HISTORIES = (128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
# With several sequences: the step that gives each of them a token, and those that read a prompt meanwhile; and the
# histories for them beyond a single sequence's context.
BESIDE = (128, 64, 32)
SHARED_HISTORIES = (1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
BESIDE_HISTORIES = (2048, 4096, 8192, 16384)
# More rows for all sequences together need more nets than they are worth.
MOST_SHARED = 16384
# Of each chip that has a part of the model: as many groups of answers are computed at once, a step of 16 each.
MOST_SEQUENCES = 16
# Steps of models with states: what these compute for pairs of tokens grows with the square.
STATE_STEPS = (64, 32, 8, 1)
SHORTEST = 32
MULTIPLE = 8
# The cost of what there is no net for, in ns.
NEVER = 1 << 60
# Rows of the longest context that a manifest may name.
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """A net's lengths: `tokens` new ones after up to `history` cached ones.

    `rows` of the new ones can have results: the one that is named, or of a net for several sequences or for drafts as
    many as are named. A net of no results computes nothing: it copies so many rows of its history.
    """

    tokens: int
    history: int
    rows: int = 1

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.tokens} rows moved"
        cached = f"up to {self.history:,}" if self.history else "none"
        text = f"{counted(self.tokens, 'token')} with {cached} cached"
        return f"{text}, {self.rows} results" if 1 < self.rows < self.tokens else text

    def landing(self, rows: int) -> int:
        """Return the row of a cache of so many at which the net leaves its new ones: behind its history.

        A net without one leaves them where the cache begins, or behind the cache if it is for several sequences: the
        cache's first rows may be another's.
        """
        return self.history if self.history or self.rows == 1 else rows

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its small inputs but for the tokens' rows, by name."""
        queries = self.tokens if self.rows else 1
        return {
            "position_ids": (1, self.tokens),
            "attention_mask": (1, 1, queries, self.history + self.tokens),
            "last_row": (self.rows or 1,),
        }

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "StepShape":
        """Read it from what a manifest states. Raises KeyError, TypeError or ValueError."""
        return cls(int(stated["tokens"]), int(stated["history"]), int(stated.get("rows", 1)))


def cache_rows(context: int, sequences: int) -> int:
    """Return the rows of the K/V cache of so many sequences; several need some to spare for steps that are not full."""
    return context * sequences + (min(context, max(BESIDE)) if sequences > 1 else 0)


def moving_shape(rows: int, context: int) -> StepShape:
    """Return the net that copies rows from anywhere in a cache of so many."""
    return StepShape(max(tokens for tokens in BESIDE if tokens <= context), rows, 0)


def step_shapes(
    context: int, sequences: int = 1, *, drafts: bool = True, states: bool = False
) -> tuple[StepShape, ...]:
    """The nets for `sequences` of at most `context` tokens each, the longest steps first: those need the most memory.

    Without `drafts`, and for one sequence, each net gives the result of a single row. With `states`, for a model that
    has recurrent layers, there are no nets for several sequences or for drafts.
    A net of C tokens writes C rows at its place in the K/V cache, so place + C is at most `cache_rows`.
    """
    rows, several = cache_rows(context, sequences), sequences > 1
    histories = {
        tokens: offered for tokens, offered in HISTORIES.items() if not states or tokens in STATE_STEPS
    }
    drafts = drafts and not states
    if drafts or several:
        histories[EVERY_ROW[0]] = DRAFT_HISTORIES
    if drafts or sequences > EVERY_ROW[0]:
        histories[EVERY_ROW[1]] = DRAFT_HISTORIES
    results = dict.fromkeys(EVERY_ROW, 0) if drafts or several else {}
    shapes = {
        StepShape(tokens, history, tokens if tokens in results else 1)
        for tokens, offered in histories.items()
        if tokens <= context
        for history in _histories(offered, tokens, context)
    }
    if several:
        decoding = EVERY_ROW[1] if sequences > EVERY_ROW[0] else EVERY_ROW[0]
        beyond: dict[int, Sequence[int]] = {
            tokens: SHARED_HISTORIES for tokens in EVERY_ROW if tokens <= decoding
        }
        beyond |= dict.fromkeys(BESIDE, BESIDE_HISTORIES)
        shapes |= {
            StepShape(tokens, history, min(tokens, decoding))
            for tokens, offered in beyond.items()
            if tokens <= context
            for history in _histories(offered, tokens, rows)
            if history > context
        }
        # A conversation begins while others go on.
        shapes |= {StepShape(tokens, 0, min(tokens, decoding)) for tokens in BESIDE if tokens <= context}
        shapes.add(moving_shape(rows, context))
    return tuple(sorted(shapes, reverse=True))


def check_states(
    name: str, config: ModelConfig, sequences: int | None, parts: int | None, half: str = "f16"
) -> None:
    """Raise InputError for what a model with recurrent layers cannot be compiled for."""
    if not config.state_layers:
        return
    why = "its layers of the gated delta rule keep one state, that of one conversation"
    if (sequences or 1) > 1:
        raise InputError(
            f"{name} cannot be compiled with --sequences {sequences}: {why}; leave the option out, or run it on the "
            "CPU, which answers several at once"
        )
    if (parts or 1) > 1:
        raise InputError(
            f"{name} cannot be compiled with --parts {parts}: {why}, on one chip; leave the option out"
        )
    if half != "f16":
        raise InputError(
            f"{name} cannot be compiled with --bf16: BF16 has too few digits for the state of its layers of the gated "
            "delta rule; compile it without"
        )
    if not config.kv_layers:
        raise InputError(
            f"--layers {config.num_hidden_layers} cannot be compiled: {name} needs a layer of full attention among them"
        )


def check_context(config: ModelConfig, context: int) -> None:
    """Raise InputError unless nets can be made for a context of that many tokens."""
    longest = config.max_position_embeddings
    if not SHORTEST <= context <= longest or context % MULTIPLE:
        raise InputError(
            f"--seq-len {context} cannot be compiled: choose a multiple of {MULTIPLE} "
            f"from {SHORTEST} to {longest // MULTIPLE * MULTIPLE} for this model"
        )


def check_sequences(context: int, sequences: int, parts: int = 1) -> None:
    """Raise InputError unless nets can be made for so many sequences of that context, in so many parts."""
    most = max(1, min(MOST_SEQUENCES * parts, MOST_SHARED // context))
    if 1 <= sequences <= most:
        return
    fix = f"choose 1 to {most}"
    if 1 < sequences <= MOST_SEQUENCES * parts:
        fix += ", or a shorter --seq-len"
    elif 1 < sequences <= MOST_SHARED // context:
        enough = -(-sequences // MOST_SEQUENCES)
        fix += f", or divide the model among {enough} chips with --parts {enough}"
    raise InputError(f"--sequences {sequences} cannot be compiled with --seq-len {context}: {fix}")


def _histories(offered: Sequence[int], tokens: int, context: int) -> list[int]:
    """Lengths of history, of those offered, that a net of so many tokens is made for, up to `context`."""
    # One hardly shorter than the whole is not worth its compilation.
    below = [history for history in offered if 4 * history <= 3 * context]
    # As long as the context, a step has its place at the beginning only.
    return below if tokens == context and 0 in below else [*below, context]


class _Table(NamedTuple):
    """For each place: the net to use (None: there is none), and what its launch costs in ns."""

    shapes: list[StepShape | None]
    costs: list[int]


@dataclass(frozen=True)
class StepNets:
    """The net `name` of a bmodel and its stages, one for each shape; all share weights and K/V memory.

    Attributes:
        context: tokens of a sequence at most.
        cycles: predicted time of each shape in ns (cycles of 1 GHz), from the compiler's timing.
        half: "f16" or "bf16", the type of states, mask and K/V.
        toolchain: version of the compiler.
        sequences: that share the K/V cache, each with its own rows of it.
        parts: of the model, each on a chip of its own, with these nets; `cycles` are the sums.
    """

    context: int
    cycles: Mapping[StepShape, int]
    half: str = "f16"
    chip: str = DEFAULT_CHIP.name
    toolchain: str = ""
    name: str = "step"
    sequences: int = 1
    parts: int = 1

    @property
    def rows(self) -> int:
        """Rows of the K/V cache; a step writes all its `tokens` rows, so place + tokens <= rows."""
        return cache_rows(self.context, self.sequences)

    def shape(self, tokens: int, position: int) -> StepShape | None:
        """The net for `tokens` rows at a place: the one with the shortest history that holds it. None: too long.

        A net reads its new rows from where its history ends; they are written at the position. In a history shorter
        than the context the two places must not overlap, unless they are the same.
        """
        table = self._tables.get(tokens)
        return table.shapes[position] if table and position < self.rows else None

    def plan(self, position: int, count: int) -> list[tuple[StepShape, int]]:
        """Return the nets in a row that feed `count` tokens after `position` soonest, with what each takes.

        That is the cheapest row; of several parts one of shorter pieces may be through sooner, for while one part reads
        a piece the one before it reads the next. All rows before `position` are those that may be looked at.
        Raises InputError (they do not fit into the cache), BundleError (there is no net for one of them).
        """
        best = self._cheapest(position, count)
        if self.parts == 1 or count == 1:
            return best

        def through(row: Sequence[tuple[StepShape, int]]) -> float:
            costs = [self.cost(shape) for shape, _ in row]
            return sum(costs) + (self.parts - 1) * max(costs)

        least = through(best)
        for longest in self._tables:
            with suppress(BundleError):
                row = self._cheapest(position, count, longest)
                if sum(self.cost(shape) for shape, _ in row) >= least:
                    break
                if through(row) < least:
                    best, least = row, through(row)
        return best

    def _cheapest(self, position: int, count: int, longest: int | None = None) -> list[tuple[StepShape, int]]:
        """As `plan`, whatever can be computed at once, with nets of at most `longest` tokens."""
        end = position + count
        if position < 0 or count < 1 or end > self.rows:
            raise InputError(f"{count} tokens after {position} do not fit into a context of {self.rows}")
        # A* search: the bounds tell what the rest costs at least.
        least, waste = self._bounds
        costs = [
            (tokens, table.costs)
            for tokens, table in self._tables.items()
            if longest is None or tokens <= longest
        ]
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
            shape = self._tables[tokens].shapes[at]
            assert shape is not None
            row.append((shape, end - at))
            end = at
        return row[::-1]

    def cost(self, shape: StepShape) -> int:
        """Return what a launch takes, in ns, with the call of the host."""
        return self.cycles[shape] + round(1e6 * spec_of(self.chip, "the bundle").host.op_ms)

    @cached_property
    def _tables(self) -> dict[int, "_Table"]:
        """What each length of step takes at each place, the longest first."""
        tables = {}
        for tokens in sorted(
            {s.tokens for s in self.cycles if s.tokens <= self.rows and s.rows}, reverse=True
        ):
            chosen, costs = np.full(self.rows, None), np.full(self.rows, NEVER)
            room = max(0, self.rows - tokens + 1)
            # The shorter history comes later and takes the place of the longer one.
            for shape in sorted((s for s in self.cycles if s.tokens == tokens and s.rows), reverse=True):
                history = shape.history
                if shape.landing(self.rows) != history:
                    continue
                clear = room if history == self.rows else max(0, history - tokens + 1)
                for places in (slice(0, clear), slice(history, min(history + 1, room))):
                    chosen[places], costs[places] = shape, self.cost(shape)
            tables[tokens] = _Table(chosen.tolist(), costs.tolist())
        return tables

    @cached_property
    def _bounds(self) -> tuple[list[float], list[float]]:
        """The least that the tokens before a position can cost, and the least that so many cost beyond that, in ns.

        The first counts each token as in the cheapest launch that may feed it. The second is what launches cost more
        than that, wherever they are: a prompt of any length that is cut into them wastes as much.
        """
        rates = np.full(self.rows, np.inf)
        for tokens, table in self._tables.items():
            # Of a launch at a position, for each of the tokens from there on.
            costs = np.array(table.costs, np.float64) / tokens
            for start in range(tokens):
                np.minimum(rates[start:], costs[: self.rows - start], out=rates[start:])
        least = np.concatenate([[0.0], np.cumsum(rates)])
        more = []
        for tokens, table in self._tables.items():
            costs = np.array(table.costs[: self.rows - tokens + 1], np.float64)
            extra = float((costs - least[tokens:] + least[:-tokens]).min(initial=NEVER))
            more.append((tokens, max(0.0, extra)))
        waste, rate = [0.0], float(rates.min())
        for count in range(1, self.rows + 1):
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
            "sequences": self.sequences,
            "toolchain": self.toolchain,
            "stages": [
                {"tokens": s.tokens, "history": s.history, "rows": s.rows, "cycles": n}
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
                cycles={StepShape.from_dict(s): int(s["cycles"]) for s in stages},
                half=str(details["half"]),
                chip=str(details["chip"]),
                toolchain=str(details["toolchain"]),
                name=str(details["net"]),
                # Bundles of before there were several do not say it.
                sequences=int(details.get("sequences", 1)),
                parts=len(details.get("parts", ())) or 1,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{source}: the description of the nets is damaged ({error!r})") from error
        spec_of(nets.chip, source)
        sizes = 1 <= nets.context <= LONGEST and 1 <= nets.sequences <= MOST_SEQUENCES * nets.parts
        whole = sizes and nets.shape(1, 0) and nets.shape(1, nets.context - 1)
        if nets.half not in ("f16", "bf16") or not whole:
            raise BundleError(f"{source}: the nets do not make up a whole model")
        return nets
