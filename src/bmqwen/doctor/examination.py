"""The whole examination: software, chips, and a model if one is named."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bmqwen.artifact.fit import MemoryRequest, memory_findings
from bmqwen.chip.finding import Finding
from bmqwen.chip.machine import Machine, look
from bmqwen.chip.system import System
from bmqwen.doctor.chips import check_chips, with_answers
from bmqwen.doctor.probe import Probe, ask
from bmqwen.doctor.software import Host, check_software


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        machine: its chips.
        findings: in the order in which they are told.
        candidate: the model that was asked about.
    """

    machine: Machine
    findings: Sequence[Finding]
    candidate: MemoryRequest | None = None

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
            "model": None if self.candidate is None else self.candidate.to_dict(),
        }


def examine(
    system: System,
    *,
    host: Host | None = None,
    probe: Probe = ask,
    device: int | None = None,
    candidate: MemoryRequest | None = None,
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
    host = host or Host()
    findings = [
        *check_software(system, host, has_chip=bool(machine.chips)),
        *check_chips(system, machine, device, host.python),
    ]
    if candidate is not None and candidate.problem:
        cause, _, fix = candidate.problem.rpartition(": ")
        findings.append(Finding("model", "error", cause, fix))
    elif candidate is not None:
        findings += memory_findings(candidate, system, machine, device)
    return Examination(machine, findings, candidate)
