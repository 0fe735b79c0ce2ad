"""Whether a model fits into a chip's memory, and what makes it fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bmqwen.artifact.footprint import LARGEST_IO, Footprint, fits
from bmqwen.chip.machine import Chip, Machine, look, memory_holders
from bmqwen.chip.memory import Heap, largest_heaps, layout_fix, plan_layout, read_board, why_too_large
from bmqwen.chip.problems import Finding, larger_than_heap, too_little_memory
from bmqwen.chip.spec import DEFAULT_CHIP, Board
from bmqwen.chip.system import System

AREA = "model"


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """A model that is to run.

    Attributes:
        title: name and precision, for people.
        context: rows of its K/V cache.
        footprint: what it takes.
        longest: the longest context for which a test of footprints holds; None for a bundle, whose nets are made.
        problem: why no runtime of ours takes it: cause and fix; "" where one does.
    """

    title: str
    context: int
    footprint: Footprint
    longest: Callable[[Callable[[Footprint], bool]], int | None] | None = None
    problem: str = ""

    def apart(self) -> "MemoryRequest":
        """The same with a runtime that gives each length of net K/V rows of its own."""
        longest = self.longest
        return replace(
            self,
            footprint=self.footprint.apart(),
            longest=longest and (lambda fits: longest(lambda footprint: fits(footprint.apart()))),
        )

    def to_dict(self) -> dict[str, Any]:
        """For scripts; sizes in bytes."""
        return {"title": self.title, "context": self.context, **self.footprint.to_dict()}


def memory_findings(
    candidate: MemoryRequest, system: System, machine: Machine | None = None, device: int | None = None
) -> list[Finding]:
    """Whether a model fits into a chip's memory, and what makes it fit.

    Args:
        candidate: the model.
        system: the machine.
        machine: what was found on it; None: look, without asking the chips themselves.
        device: on which it is to run; None: the first that works.
    """
    machine = machine or look(system)
    chip = chosen_chip(machine, device)
    if chip and machine.libsophon and not machine.libsophon.shares_memory:
        candidate = candidate.apart()
    return list(
        check_memory(
            candidate,
            chip.heaps if chip else (),
            f"device {chip.index}" if chip else "",
            read_board(system),
            memory_holders(system, chip) if chip else (),
        )
    )


def chosen_chip(machine: Machine, device: int | None) -> Chip | None:
    """The chip that a model is to run on, if there is one that works."""
    wanted = [c for c in machine.chips if device in (None, c.index) and c.state != "Fault" and c.heaps]
    return wanted[0] if wanted else None


def check_memory(
    candidate: MemoryRequest,
    heaps: Sequence[Heap],
    device: str,
    board: Board | None,
    holders: Sequence[str] = (),
) -> Iterator[Finding]:
    """What a model needs, whether this device has it, and what would change that.

    Args:
        candidate: the model.
        heaps: of the device; empty where there is none.
        device: what it is called.
        board: what a SoC has to divide.
        holders: programs that use the device.
    """
    need = candidate.footprint
    title = f"{candidate.title}, {candidate.context:,} tokens"
    yield Finding(AREA, "ok", f"{title}: {footprint_text(need)}")
    if not heaps:
        yield _elsewhere(candidate)
        return
    if fits(need, heaps):
        yield Finding(AREA, "ok", f"it fits on {device}{_longest_text(candidate, heaps)}")
        return
    empty = [Heap(heap.name, heap.total) for heap in heaps]
    if fits(need, empty):
        free = sum(heap.free for heap in heaps)
        yield Finding.of(AREA, too_little_memory(title, need.total, device, free, holders))
        return
    problem = why_too_large(title, need.pieces, empty, device)
    if problem is None:
        # They would fit, but a net's inputs and outputs are more than the vendor's runtime can count.
        problem = larger_than_heap(title, need.pieces[-1], "the runtime's limit", LARGEST_IO)
    smaller = _smaller(candidate, empty)
    layout = plan_layout(board, need.pieces) if board else None
    if board and layout:
        fix = f"{layout_fix(layout, board)}; or {smaller}"
    elif board:
        fix = f"no division of this box's memory has room for it: {smaller}"
    else:
        fix = smaller
    yield Finding(AREA, "error", problem.cause, fix)


def _elsewhere(candidate: MemoryRequest) -> Finding:
    """No chip here: what of the usual box, as it is delivered?"""
    need, box, board = candidate.footprint, DEFAULT_CHIP.box, DEFAULT_CHIP.board
    delivered = largest_heaps(replace(board, most=board.now))
    if fits(need, delivered):
        return Finding(
            AREA, "ok", f"it fits on an {box} box as delivered{_longest_text(candidate, delivered)}"
        )
    layout = plan_layout(board, need.pieces)
    memory = f"{board.memory >> 30} GB"
    if layout is None:
        text = f"it does not fit on a {DEFAULT_CHIP.name} with {memory}, however its memory is divided"
        return Finding(AREA, "warning", text, _smaller(candidate, largest_heaps(board)))
    return Finding(
        AREA,
        "ok",
        f"it fits on a card with {memory} a chip, and on an {box} box once its memory is divided differently",
        layout_fix(layout, board),
    )


def footprint_text(need: Footprint) -> str:
    """ "1,180 MiB: weights 959, K/V cache 192, activations 29, instructions 4"."""
    parts = {
        "weights": need.weights,
        "K/V cache": need.cache,
        "activations": need.activations,
        "instructions": need.instructions,
    }
    if need.copies:
        # An old runtime's, which doctor warns of.
        parts["K/V memory and inputs of the other lengths of net"] = need.copies
    listed = ", ".join(f"{name} {_mib_text(size)}" for name, size in parts.items())
    return f"needs {_mib_text(need.total)} MiB on the chip: {listed}"


def _mib_text(size: int) -> str:
    return f"{size / 2**20:,.0f}" if size >= 10 << 20 else f"{size / 2**20:.1f}"


def _smaller(candidate: MemoryRequest, heaps: Sequence[Heap]) -> str:
    """What would fit into heaps as they are."""
    if candidate.longest is None:
        return "choose a bundle of a smaller precision, context or model"
    if candidate.longest(lambda footprint: fits(footprint, heaps)) is None:
        return "choose a smaller precision or model: in the heaps as they are no context fits"
    return f"choose a smaller precision, context or model{_longest_text(candidate, heaps)}"


def _longest_text(candidate: MemoryRequest, heaps: Sequence[Heap]) -> str:
    """The longest context, for a model that is not compiled yet; it fits at some."""
    context = candidate.longest and candidate.longest(lambda footprint: fits(footprint, heaps))
    return f"; the longest context that fits is {context:,} tokens (--seq-len {context})" if context else ""
