"""The whole examination: software, chips, and a model if one is named."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.bundle import is_bundle, read_bundle
from bmqwen.artifact.division import divide, fewest_parts, part_text
from bmqwen.artifact.fit import MemoryRequest, config_request, in_parts, memory_findings
from bmqwen.artifact.footprint import bmodel_footprint, fits
from bmqwen.artifact.published import published_model
from bmqwen.artifact.steps import check_context, check_sequences, check_states
from bmqwen.chip.machine import Machine, look
from bmqwen.chip.memory import largest_heaps
from bmqwen.chip.problems import Finding
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.chip.system import System
from bmqwen.doctor.chips import check_chips, with_answers
from bmqwen.doctor.probe import Probe, ask
from bmqwen.doctor.software import Environment, check_software
from bmqwen.errors import BundleError, InputError
from bmqwen.hub.catalog import find, is_short
from bmqwen.hub.hub import Hub
from bmqwen.hub.known_config import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import AnyPrecision, Precision
from bmqwen.util.progress import Progress
from bmqwen.weights.checkpoint import open_checkpoint

CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found: findings in the order in which they are shown, and the model that was asked about."""

    machine: Machine
    findings: Sequence[Finding]
    request: MemoryRequest | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken; warnings do not count."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it for scripts; sizes in bytes."""
        return {
            "healthy": self.healthy,
            "machine": asdict(self.machine),
            "findings": [asdict(finding) for finding in self.findings],
            "model": None if self.request is None else self.request.to_dict(),
        }


def examine(
    system: System,
    *,
    host: Environment | None = None,
    probe: Probe = ask,
    device: int | None = None,
    request: MemoryRequest | None = None,
) -> Examination:
    """Look at everything, or only at one device, on which (or the first) a model is to run.

    `host`: what Python knows of the machine; None: of this one. `probe` asks one chip.
    """
    machine = with_answers(look(system), probe)
    host = host or Environment()
    findings = [
        *check_software(system, host, has_chip=bool(machine.chips)),
        *check_chips(system, machine, device, host.python),
    ]
    if request is not None and request.problem:
        cause, _, fix = request.problem.rpartition(": ")
        findings.append(Finding("model", "error", cause, fix))
    elif request is not None:
        findings += memory_findings(request, system, machine, device)
    return Examination(machine, findings, request)


def find_request(
    model: str,
    precision: AnyPrecision,
    context: int | None,
    sequences: int = 1,
    parts: int | None = 1,
    *,
    offline: bool,
    progress: Progress,
) -> MemoryRequest:
    """Return what is to be checked. A short name is not downloaded for it.

    Precision, context (None: 512), sequences and parts (None: as few as there is memory for) are those of a model that
    is not compiled yet; a bundle keeps its own.

    Raises InputError for an unknown model or a context that cannot be compiled, and what opening it raises.
    """
    if is_short(model) and (config := published_config(name := find(model).name)) is not None:
        return _checked_request(name, config, precision.of_checkpoint(None), context, sequences, parts)
    path = Hub(offline=offline or None).resolve(model, progress=progress)
    if is_bundle(path):
        bundle = read_bundle(path)
        if bundle.kind != "bmodel":
            raise InputError(f"{bundle.folder} was made for the CPU, it takes nothing of a chip's memory")
        title = f"{bundle.model}, {Precision(**bundle.precision)}"
        if (count := int(bundle.details.get("sequences", 1))) > 1:
            title += f", {count} sequences"
        context = int(bundle.details.get("context", 0))
        return in_parts(
            [
                MemoryRequest(
                    ", ".join(filter(None, (title, part_text(part.config)))),
                    context,
                    bmodel_footprint(read_description(part.bmodel)),
                )
                for part in bundle.parts
            ]
        )
    if path.suffix == ".bmodel":
        return _bmodel_request(path)
    with open_checkpoint(path) as checkpoint:
        return _checked_request(
            checkpoint.name, checkpoint.config, precision.of_checkpoint(checkpoint), context, sequences, parts
        )


def _bmodel_request(path: Path) -> MemoryRequest:
    """A bmodel of any layout, with what keeps one that was not published from running; BundleError: it is damaged."""
    bmodel = read_description(path)
    problem = ""
    try:
        published_model(bmodel)
    except BundleError as error:
        problem = str(error)
    first = [tensor.shape for net in bmodel.nets.values() for s in net.stages for tensor in s.inputs[:1]]
    contexts = [shape[1] for shape in first if len(shape) > 1]
    return MemoryRequest(path.name, max(contexts, default=0), bmodel_footprint(bmodel), problem=problem)


def _checked_request(
    name: str,
    config: ModelConfig,
    precision: Precision,
    context: int | None,
    sequences: int,
    parts: int | None,
) -> MemoryRequest:
    context = min(CONTEXT, config.max_position_embeddings) if context is None else context
    check_states(name, config, sequences, parts)
    check_context(config, context)
    if config.state_layers:
        parts = 1
    if parts is None:
        heaps = largest_heaps(DEFAULT_CHIP.board)
        parts = fewest_parts(config, precision, context, lambda need: fits(need, heaps), sequences)
    check_sequences(context, sequences, parts)
    divided = divide(config, precision, parts)
    return in_parts([config_request(name, part, precision, context, sequences) for part in divided])
