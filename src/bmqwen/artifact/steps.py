"""The step nets of a bmodel bundle: which lengths a context gets, and which of them a prompt is best fed with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


@dataclass(frozen=True)
class StepNets:
    """The net `name` of a bmodel and its stages, one for each shape; all share weights and K/V memory.

    Attributes:
        context: rows of the K/V cache; a step writes all its `tokens` rows, so position + tokens <= context.
        cycles: predicted time of each shape in ns (cycles of 1 GHz), from the compiler's timing.
        half: "f16" or "bf16", the type of states, mask and K/V.
        chip: what it was compiled for.
        toolchain: version of the compiler.
        name: the net's name in the bmodel.
    """

    context: int
    cycles: Mapping[StepShape, int]
    half: str = "f16"
    chip: str = DEFAULT_CHIP.name
    toolchain: str = ""
    name: str = "step"

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """All values of `tokens`, ascending."""
        return tuple(sorted({shape.tokens for shape in self.cycles}))

    def shape(self, tokens: int, position: int) -> StepShape | None:
        """The net for `tokens` rows at a position: the one with the shortest history that holds it. None: too long.

        A net reads its new rows from where its history ends; they are written at the position. In a history shorter
        than the context the two places must not overlap, unless they are the same.
        """
        if position + tokens > self.context:
            return None
        fitting = [
            s
            for s in self.cycles
            if s.tokens == tokens
            and (s.history >= position + tokens or s.history in (position, self.context))
        ]
        return min(fitting, key=lambda s: s.history, default=None)

    def plan(self, position: int, count: int) -> list[tuple[StepShape, int]]:
        """The cheapest row of nets that feeds `count` tokens after `position`, with the tokens that each really takes.

        Raises:
            InputError: they do not fit into the context.
        """
        if position < 0 or count < 1 or position + count > self.context:
            raise InputError(f"{count} tokens after {position} do not fit into a context of {self.context}")
        call_ns = round(1e6 * spec_of(self.chip, "the bundle").host.op_ms)
        # best[i]: cost of feeding the last `count - i` tokens, and the first net of that row
        best: list[tuple[float, StepShape | None]] = [(float("inf"), None) for _ in range(count)]
        best.append((0.0, None))
        for done in range(count - 1, -1, -1):
            for tokens in self.lengths:
                shape = self.shape(tokens, position + done)
                if shape is None:
                    continue
                cost = self.cycles[shape] + call_ns + best[min(done + tokens, count)][0]
                if cost < best[done][0]:
                    best[done] = (cost, shape)
        row: list[tuple[StepShape, int]] = []
        done = 0
        while done < count:
            shape = best[done][1]
            if shape is None:
                raise BundleError(f"the bundle has no net for a token after {position + done}")
            used = min(shape.tokens, count - done)
            row.append((shape, used))
            done += used
        return row

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
        if nets.half not in ("f16", "bf16") or not nets.shape(1, 0) or not nets.shape(1, nets.context - 1):
            raise BundleError(f"{source}: the nets do not make up a whole model")
        return nets
