"""The estimate of a model or of a bundle: what would be compiled, timed, and a conversation through it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.states import copied_states, state_bytes
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.plan import Plan, make_plan
from bmqwen.compiler.timing import Profile, Timeline
from bmqwen.errors import BundleError, InputError
from bmqwen.estimate.cost import Chips
from bmqwen.estimate.forecast import Forecast, Question, simulate
from bmqwen.estimate.representative import time_nets, time_parts
from bmqwen.estimate.together import Together, simulate_together
from bmqwen.hub.known_config import known_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.progress import Progress

SIDE_BY_SIDE = (2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the vendor's tables for the usual box, measured with a prompt of about 26 tokens (Qwen3.5: 16).

    Attributes:
        context: tokens that its prompt net reads, and of its K/V cache.
        known_nets: how its nets were made is known; `benchmarks/published_recipe.py` makes their like.
    """

    model: str
    form: Format
    context: int
    first_token_s: float
    tokens_per_s: float
    known_nets: bool = True


PUBLISHED = (
    Published("qwen1.5-1.8b-chat", "int4", 512, 0.191, 31.863),
    Published("qwen1.5-1.8b-chat", "int8", 512, 0.177, 22.117),
    Published("qwen1.5-4b-chat", "int4", 512, 0.379, 15.526),
    Published("qwen1.5-7b-chat", "int4", 512, 0.728, 10.151),
    Published("qwen2.5-1.5b-instruct", "int4", 512, 0.185, 41.078, known_nets=False),
    Published("qwen2.5-7b-instruct", "int4", 512, 0.652, 10.26, known_nets=False),
    Published("qwen1.5-7b-chat", "int4", 2048, 3.234, 7.083, known_nets=False),
    Published("qwen2.5-7b-instruct", "int4", 2048, 2.704, 9.753, known_nets=False),
    Published("deepseek-r1-distill-qwen-7b", "int4", 2048, 2.937, 8.3, known_nets=False),
    Published("qwen3.5-2b", "int4", 2048, 0.104, 27.66, known_nets=False),
)


@dataclass(frozen=True, slots=True)
class EstimatedPart:
    """What one of several chips gets: number of layers, bytes of its memory, and its share of a token's time."""

    layers: int
    device_bytes: int
    time_share: float


@dataclass(frozen=True)
class Estimate:
    """A prediction, and what it is of.

    Attributes:
        timelines: of the nets with one layer each, where they were compiled for it; else empty.
        together: several conversations side by side, from two to as many as the nets are for.
        published: the row of the vendor's table for such a model, if there is one.
        parts: of a model on several chips.
    """

    model: str
    precision: str
    layers: int
    forecast: Forecast
    timelines: Mapping[StepShape, Timeline]
    together: tuple[Together, ...] = ()
    published: Published | None = None
    parts: tuple[EstimatedPart, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        about: dict[str, Any] = {"model": self.model, "precision": self.precision, "layers": self.layers}
        about["together"] = [side_by_side.to_dict() for side_by_side in self.together]
        about["parts"] = [asdict(part) for part in self.parts]
        if (row := self.published) is not None:
            about["published"] = {"first_token_s": row.first_token_s, "tokens_per_s": row.tokens_per_s}
        return self.forecast.to_dict() | about


def estimate_model(
    name: str,
    plan: Plan,
    host: Host,
    question: Question,
    *,
    jobs: int | None = None,
    progress: Progress,
) -> Estimate:
    """Estimate the nets that `compile` would make of a plan, timed with random weights.

    Raises what `time_nets` and `simulate` raise.
    """
    config, precision, context = plan.config, plan.precision, plan.context
    question.answer_in(context)  # refused before the long work
    timed = time_nets(plan, jobs=jobs, progress=progress)
    divided = time_parts(plan, jobs=jobs, progress=progress)
    chips = _chips(divided, config)
    cycles = {shape: profile.cycles for shape, profile in chips.profiles.items()}
    nets = StepNets(context, cycles, half=plan.half, sequences=plan.sequences, parts=len(divided))
    timelines = {shape: net.timeline for shape, net in timed.items()}
    forecast = simulate(nets, chips, host, question)
    # Of the box only, of one format for everything, and of an answer from its beginning on.
    uniform = precision.lm_head == precision.weights and not precision.projections
    alike = host == DEFAULT_CHIP.host and not question.history and len(divided) == 1 and uniform
    job = (name, precision.weights, context)
    row = next((p for p in PUBLISHED if alike and (p.model, p.form, p.context) == job), None)
    together = _side_by_side(nets, chips, host, question)
    each = _parts(
        [own.config.num_hidden_layers for own in plan.of_parts()],
        [own.size.chip.total for own in plan.of_parts()],
        divided,
    )
    return Estimate(name, str(precision), config.num_hidden_layers, forecast, timelines, together, row, each)


def estimate_published(
    host: Host,
    question: Question,
    *,
    sequences: int | None = None,
    drafts: bool = True,
    jobs: int | None = None,
    progress: Progress,
) -> list[tuple[Published, Estimate]]:
    """Estimate our nets for every published row, in their order. Raises what `make_plan` and `estimate_model` raise."""
    found = []
    for row in PUBLISHED:
        name, config = known_config(row.model, progress=progress)
        precision = Precision(row.form, 64, row.form)
        plan = make_plan((name, config), precision, row.context, "f16", sequences=sequences, drafts=drafts)
        found.append((row, estimate_model(name, plan, host, question, jobs=jobs, progress=progress)))
    return found


def estimate_bundle(bundle: Bundle, host: Host, question: Question) -> Estimate:
    """Estimate a compiled bundle, from its manifest alone: no compiler is needed.

    Raises InputError (a bundle of another kind, or lengths that do not fit), BundleError (a damaged manifest).
    """
    if bundle.kind != "bmodel":
        raise InputError(
            f"{bundle.folder} is a bundle for the CPU, which says nothing of the chip: name its model "
            f"({bundle.model}) or a bundle made by bmqwen compile"
        )
    if "stages" not in bundle.details:
        raise InputError(
            f"{bundle.folder} was not compiled by bmqwen and holds no timing of its nets: name its model, for what "
            "bmqwen's nets of it would reach"
        )
    nets = StepNets.from_dict(bundle.details, str(bundle.folder))
    try:
        divided: list[Mapping[StepShape, Profile]] = [
            {StepShape.from_dict(stage): Profile.from_dict(stage) for stage in part["stages"]}
            for part in bundle.details.get("parts", [bundle.details])
        ]
        chips = _chips(divided, bundle.config)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.folder} does not say what its nets move over the memory bus ({error!r}): make it again"
        ) from error
    forecast = simulate(nets, chips, host, question)
    precision = str(Precision(**bundle.precision))
    together = _side_by_side(nets, chips, host, question)
    # Of one part the manifest says enough; those of several have their memory in their bmodels.
    own = bundle.parts if len(divided) > 1 else ()
    each = _parts(
        [part.config.num_hidden_layers for part in own], [part.device_bytes for part in own], divided
    )
    layers = bundle.config.num_hidden_layers
    return Estimate(bundle.model, precision, layers, forecast, {}, together, parts=each)


def _chips(parts: Sequence[Mapping[StepShape, Profile]], config: ModelConfig) -> Chips:
    """Return the chips for a model's parts; a token has keys and values of every layer, in half precision."""
    row_bytes = 2 * 2 * config.kv_size * len(config.kv_layers)
    copied = {shape.tokens: state_bytes(config, copied_states(config, shape.tokens)) for shape in parts[0]}
    return Chips(parts, row_bytes, 2 * config.hidden_size, copied)


def _parts(
    layers: Sequence[int], sizes: Sequence[int], parts: Sequence[Mapping[StepShape, Profile]]
) -> tuple[EstimatedPart, ...]:
    """Describe the parts, by the net that decodes with the longest history; of a model on one chip none."""
    if len(parts) == 1:
        return ()
    shape = max((s for s in parts[0] if s.tokens == 1), key=lambda s: s.history)
    cycles = [part[shape].cycles for part in parts]
    shares = [count / sum(cycles) for count in cycles]
    return tuple(map(EstimatedPart, layers, sizes, shares))


def _side_by_side(nets: StepNets, chips: Chips, host: Host, question: Question) -> tuple[Together, ...]:
    """Follow 2, 4, 8, 16 and 32 conversations, as far as the nets are for so many, each with the same question."""
    counts = sorted({n for n in SIDE_BY_SIDE if n < nets.sequences} | {nets.sequences} - {1})
    if question.history:
        return ()
    return tuple(simulate_together(nets, chips, host, question, n) for n in counts)
