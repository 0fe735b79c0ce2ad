"""The step nets of a bmodel bundle: which lengths there are, and which of them a prompt is best fed with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bmqwen.chip.spec import DEFAULT_CHIP, spec_of
from bmqwen.errors import BundleError, InputError
from bmqwen.util.text import counted


@dataclass(frozen=True, slots=True, order=True)
class StepShape:
    """A net's lengths: `tokens` new ones after up to `history` cached ones."""

    tokens: int
    history: int

    def __str__(self) -> str:
        return f"{counted(self.tokens, 'token')} after {self.history}"


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
