"""Whether a model fits into a chip's memory, and what makes it fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bmqwen.artifact.division import part_text
from bmqwen.artifact.footprint import LARGEST_IO, Footprint, fits, footprint, longest_context
from bmqwen.chip.machine import Machine, look, memory_holders
from bmqwen.chip.memory import Heap, largest_heaps, layout_fix, plan_layout, read_board, why_too_large
from bmqwen.chip.problems import Finding, larger_than_heap, no_device, too_little_memory
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.chip.system import System
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision

AREA = "model"


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """A model that is to run, by name and precision, with a K/V cache for sequences of `context` tokens.

    Attributes:
        longest: the longest context for which a test of footprints holds; None for a bundle, whose nets are made.
        problem: why no runtime of ours takes it: cause and fix; "" where one does.
        further: of a model in parts, those after the first one, each for the next chip.
    """

    title: str
    context: int
    footprint: Footprint
    longest: Callable[[Callable[[Footprint], bool]], int | None] | None = None
    problem: str = ""
    further: tuple["MemoryRequest", ...] = ()

    def apart(self) -> "MemoryRequest":
        """Return the same with a runtime that gives each length of net K/V rows of its own."""
        longest = self.longest
        return replace(
            self,
            footprint=self.footprint.apart(),
            longest=longest and (lambda fits: longest(lambda footprint: fits(footprint.apart()))),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for scripts; sizes in bytes."""
        facts = {"title": self.title, "context": self.context, **self.footprint.to_dict()}
        return facts | ({"further_parts": [part.to_dict() for part in self.further]} if self.further else {})


def together(requests: Sequence[MemoryRequest]) -> MemoryRequest:
    """Return the request of several models on one chip."""
    if len(requests) == 1:
        return requests[0]
    needs = sorted((request.footprint for request in requests), key=lambda need: need.pieces[-1])
    return MemoryRequest(
        title=" and ".join(f"{request.title}, {request.context:,} tokens" for request in requests),
        context=0,
        footprint=Footprint(
            weights=sum(need.weights for need in needs),
            instructions=sum(need.instructions for need in needs),
            cache=sum(need.cache for need in needs),
            activations=sum(need.activations for need in needs),
            # The largest of the nets' inputs and outputs comes last: `fits` looks at its size.
            pieces=tuple(piece for need in needs for piece in need.pieces),
            stages=tuple(stage for need in needs for stage in need.stages),
            copies=sum(need.copies for need in needs),
            state=sum(need.state for need in needs),
        ),
        problem=next((request.problem for request in requests if request.problem), ""),
        further=tuple(part for request in requests for part in request.further),
    )


def in_parts(requests: Sequence[MemoryRequest]) -> MemoryRequest:
    """Return the request of a model whose parts are these, each for a chip of its own."""
    return replace(requests[0], further=tuple(requests[1:]))


def config_request(
    name: str, config: ModelConfig, precision: Precision, context: int, sequences: int = 1
) -> MemoryRequest:
    """Return the request of a model, or of a part of one, to be compiled, for `sequences` of `context` tokens each."""
    several = f", {sequences} sequences" if sequences > 1 else ""
    return MemoryRequest(
        title=", ".join(filter(None, (name, part_text(config), f"{precision}{several}"))),
        context=context,
        footprint=footprint(config, precision, context, sequences),
        longest=partial(longest_context, config, precision, sequences=sequences),
    )


def memory_findings(
    request: MemoryRequest, system: System, machine: Machine | None = None, device: int | None = None
) -> Iterator[Finding]:
    """Tell what a model needs, whether a chip has it, and what would change that.

    `machine` is what was found on the system (None: look, without asking the chips themselves), `device` on which the
    model is to run (None: the first that works).
    """
    machine = machine or look(system)
    yield from _part_findings(request, system, machine, device)
    first = next((c.index for c in machine.working if c.heaps and device in (None, c.index)), device or 0)
    for number, part in enumerate(request.further, start=1):
        yield from _part_findings(part, system, machine, first + number)


def _part_findings(
    request: MemoryRequest, system: System, machine: Machine, device: int | None
) -> Iterator[Finding]:
    """Tell it of what one chip gets."""
    chip = next((c for c in machine.working if c.heaps and device in (None, c.index)), None)
    if chip and machine.libsophon and not machine.libsophon.shares_memory:
        request = request.apart()
    need, title = request.footprint, request.title
    title += f", {request.context:,} tokens" if request.context else ""
    yield Finding(AREA, "ok", f"{title}: {need.text()}")
    if chip is None and device is not None and machine.working and machine.chip(device) is None:
        yield Finding.of(AREA, no_device(device, len(machine.chips)))
        return
    if chip is None:
        yield _elsewhere(request)
        return
    name, board = f"device {chip.index}", read_board(system)
    if fits(need, chip.heaps):
        yield Finding(AREA, "ok", f"it fits on {name}{_longest_text(request, chip.heaps)}")
        return
    empty = [Heap(heap.name, heap.total) for heap in chip.heaps]
    if fits(need, empty):
        free = sum(heap.free for heap in chip.heaps)
        holders = memory_holders(system, chip)
        yield Finding.of(AREA, too_little_memory(title, need.total, name, free, holders))
        return
    problem = why_too_large(title, need.pieces, empty, name)
    if problem is None:
        # They would fit, but a net's inputs and outputs are more than the vendor's runtime can count.
        problem = larger_than_heap(title, need.pieces[-1], "the runtime's limit", LARGEST_IO)
    fix = _smaller(request, empty)
    if board and (layout := plan_layout(board, need.pieces)):
        fix = f"{layout_fix(layout, board)}; or {fix}"
    elif board:
        fix = f"no division of this box's memory has room for it: {fix}"
    yield Finding(AREA, "error", problem.cause, fix)


def _elsewhere(request: MemoryRequest) -> Finding:
    """No chip here: what of the usual box, as it is delivered?"""
    need, box, board = request.footprint, DEFAULT_CHIP.box, DEFAULT_CHIP.board
    delivered = largest_heaps(replace(board, most=board.now))
    if fits(need, delivered):
        return Finding(AREA, "ok", f"it fits on an {box} box as delivered{_longest_text(request, delivered)}")
    layout = plan_layout(board, need.pieces)
    memory = f"{board.memory >> 30} GB"
    if layout is None:
        text = f"it does not fit on a {DEFAULT_CHIP.name} with {memory}, however its memory is divided"
        return Finding(AREA, "warning", text, _smaller(request, largest_heaps(board)))
    return Finding(
        AREA,
        "ok",
        f"it fits on a card with {memory} a chip, and on an {box} box once its memory is divided differently",
        layout_fix(layout, board),
    )


def _smaller(request: MemoryRequest, heaps: Sequence[Heap]) -> str:
    """What would fit into heaps as they are."""
    if request.longest is None:
        return "choose a bundle of a smaller precision, context or model"
    if request.longest(lambda footprint: fits(footprint, heaps)) is None:
        return "choose a smaller precision or model: in the heaps as they are no context fits"
    return f"choose a smaller precision, context or model{_longest_text(request, heaps)}"


def _longest_text(request: MemoryRequest, heaps: Sequence[Heap]) -> str:
    """The longest context, for a model that is not compiled yet; it fits at some."""
    context = request.longest and request.longest(lambda footprint: fits(footprint, heaps))
    return f"; the longest context that fits is {context:,} tokens (--seq-len {context})" if context else ""
