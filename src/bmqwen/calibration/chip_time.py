"""What the formats of a model's parts cost in time on the chip: a token's net, timed with each format everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bmqwen.calibration.sensitivity import FORMATS
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.compiler.plan import make_plan
from bmqwen.compiler.timing import Command, Timeline
from bmqwen.estimate.cost import LAUNCH_OPS, READ_OPS, Cost
from bmqwen.estimate.forecast import STEP_MS, TOKEN_MS
from bmqwen.estimate.net_store import NetTiming
from bmqwen.estimate.representative import time_nets
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import PROJECTIONS, Precision
from bmqwen.util.progress import Progress

_CONTEXT = 512


def timed_context(config: ModelConfig) -> int:
    """Return how many tokens are cached before the one that is timed."""
    return min(_CONTEXT, config.max_position_embeddings)


def token_ns(name: str, config: ModelConfig, precision: Precision, progress: Progress) -> float:
    """Return the predicted time of a token after `timed_context` cached ones, in ns, calls of the host included.

    Raises what `time_nets` raises.
    """
    return _token_ns(_timed(name, config, precision, progress))


def part_times(
    name: str, config: ModelConfig, possible: Mapping[str, Sequence[str]], progress: Progress
) -> tuple[dict[str, dict[str, float]], float]:
    """Return the predicted ns of each part in each format possible, for a token after `timed_context` cached ones.

    And those of everything else, beside the last format. They add up to the cycle: what a part takes depends on its
    own format only. A model that needs several chips is timed as if one held it. Raises what `time_nets` raises.
    """
    found: dict[str, dict[str, float]] = {part: {} for part in possible}
    rest = 0.0
    for form in FORMATS:
        # A part that this format's groups do not divide has its last possible one, the most exact.
        formats = {part: form if form in names else names[-1] for part, names in possible.items()}
        projections = {part: FORMATS[own] for part, own in formats.items() if part != "lm_head"}
        precision = Precision.mixed(projections, FORMATS[formats["lm_head"]])
        timing = _timed(name, config, precision, progress)
        cycles = _by_part(timing.timeline)
        own = {
            part: cycles.get(part, 0) * (1 if part == "lm_head" else config.num_hidden_layers)
            for part in possible
        }
        rest = _token_ns(timing) - sum(own.values())
        for part, ns in own.items():
            found[part][formats[part]] = ns
    return found, rest


def _timed(name: str, config: ModelConfig, precision: Precision, progress: Progress) -> NetTiming:
    # Only a layer or two are compiled: the whole model may be larger than a chip's memory.
    plan = make_plan(
        (name, config), precision, timed_context(config), "f16", sequences=1, drafts=False, parts=None
    )
    shape = max((s for s in plan.shapes if s.tokens == 1), key=lambda s: s.history)
    return time_nets(replace(plan, shapes=(shape,)), progress=progress)[shape]


def _token_ns(timing: NetTiming) -> float:
    cost = Cost()
    cost.add(timing.profile, LAUNCH_OPS + READ_OPS)
    cost.python_ms = STEP_MS + TOKEN_MS
    return cost.seconds(DEFAULT_CHIP.host) * 1e9


def _by_part(timeline: Timeline) -> dict[str, int]:
    """Cycles of the net with one layer, by part."""
    leaves = {f"{name}.": part for part, names in PROJECTIONS.items() for name in names}

    def label(command: Command) -> str:
        values = timeline.names.get(command.operation, "")
        own = next((part for leaf, part in leaves.items() if leaf in values), None)
        return own if own and "MatMul" in command.operation else command.part

    return timeline.cycles_by(label)
