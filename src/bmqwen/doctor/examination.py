"""The whole examination: software, chips, and a model if one is named."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bmqwen.chip.layout import read_board
from bmqwen.chip.machine import Chip, Machine, look
from bmqwen.chip.system import System
from bmqwen.doctor.chips import check_chips, memory_holders, with_answers
from bmqwen.doctor.finding import Finding
from bmqwen.doctor.memory import Candidate, check_memory
from bmqwen.doctor.probe import Probe, ask
from bmqwen.doctor.software import Host, check_software


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        machine: its chips.
        findings: in the order in which they are told.
    """

    machine: Machine
    findings: Sequence[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken; warnings do not count."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For scripts; sizes in bytes."""
        return {
            "healthy": self.healthy,
            "machine": asdict(self.machine),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def examine(
    system: System,
    *,
    host: Host | None = None,
    probe: Probe = ask,
    device: int | None = None,
    candidate: Candidate | None = None,
) -> Examination:
    """Look at everything.

    Args:
        system: the machine.
        host: what Python knows of it; None: of this one.
        probe: asks one chip.
        device: the only device that matters; None: all.
        candidate: a model that is to run, on `device` or the first one.
    """
    machine, _ = with_answers(look(system), probe)
    findings = [
        *check_software(system, host or Host(), has_chip=bool(machine.chips)),
        *check_chips(system, machine, device),
    ]
    if candidate is not None:
        chip = chosen_chip(machine, device)
        findings += check_memory(
            candidate,
            chip.heaps if chip else (),
            f"device {chip.index}" if chip else "",
            read_board(system),
            memory_holders(system, chip) if chip else (),
        )
    return Examination(machine, findings)


def chosen_chip(machine: Machine, device: int | None) -> Chip | None:
    """The chip that a model is to run on, if there is one that works."""
    wanted = [c for c in machine.chips if device in (None, c.index) and c.state != "Fault" and c.heaps]
    return wanted[0] if wanted else None
