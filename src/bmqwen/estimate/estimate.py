"""The estimate of a model or of a bundle: what would be compiled, timed, and a conversation through it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.plan import make_plan
from bmqwen.compiler.timing import Profile, Timeline
from bmqwen.errors import BundleError, InputError
from bmqwen.estimate.forecast import Forecast, check_lengths, simulate
from bmqwen.estimate.published import PUBLISHED, Published, find_published, published_dict
from bmqwen.estimate.representative import time_nets
from bmqwen.hub.known_config import known_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.float16 import Half
from bmqwen.util.progress import Progress

# The published question, and about as much of an answer as it gets.
PROMPT_TOKENS, NEW_TOKENS = 26, 350


@dataclass(frozen=True, slots=True)
class Question:
    """Lengths of a conversation.

    Attributes:
        prompt_tokens: new tokens to read.
        new_tokens: tokens of the answer; None: NEW_TOKENS, or as many as fit.
        history: tokens that are cached before.
    """

    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int | None = None
    history: int = 0

    def answer_in(self, context: int) -> int:
        """Return how many tokens the answer has."""
        if self.new_tokens is not None:
            return self.new_tokens
        return max(2, min(NEW_TOKENS, context - self.history - self.prompt_tokens))


@dataclass(frozen=True)
class Estimate:
    """A prediction, and what it is of.

    Attributes:
        model, precision, layers: what was timed.
        forecast: the prediction.
        timelines: of the nets with one layer each, where they were compiled for it; else empty.
        published: the row of the vendor's table for such a model, if there is one.
    """

    model: str
    precision: str
    layers: int
    forecast: Forecast
    timelines: Mapping[StepShape, Timeline]
    published: Published | None = None

    @property
    def first_token_s(self) -> float:
        """From the request to the first token, seconds."""
        return self.forecast.first_token_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first one over the time that they take."""
        return self.forecast.tokens_per_s

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        about = {"model": self.model, "precision": self.precision, "layers": self.layers}
        return self.forecast.to_dict() | about | published_dict(self.published)


def estimate_model(
    name: str,
    config: ModelConfig,
    precision: Precision,
    context: int,
    host: Host,
    question: Question,
    *,
    half: Half = "f16",
    jobs: int | None = None,
    progress: Progress,
) -> Estimate:
    """Estimate the nets that `compile` would make, timed with random weights.

    Raises what `time_nets` and `simulate` raise.
    """
    plan = make_plan((name, config), precision, context, half)
    check_lengths(context, question.prompt_tokens, question.answer_in(context), question.history)
    timed = time_nets(plan, jobs=jobs, progress=progress)
    profiles = {shape: net.profile for shape, net in timed.items()}
    nets = StepNets(context, {shape: profile.cycles for shape, profile in profiles.items()}, half=half)
    timelines = {shape: net.one_layer.timeline for shape, net in timed.items()}
    forecast = _simulate(nets, profiles, host, question, config)
    # Of the box only, and of an answer from its beginning on.
    alike = host == DEFAULT_CHIP.host and not question.history
    row = find_published(name, precision.weights, context) if alike else None
    return Estimate(name, str(precision), config.num_hidden_layers, forecast, timelines, row)


def estimate_published(
    host: Host, question: Question, *, jobs: int | None = None, progress: Progress
) -> list[tuple[Published, Estimate]]:
    """Estimate our nets for every published row, in their order. Raises what `estimate_model` raises."""
    found = []
    for row in PUBLISHED:
        name, config = known_config(row.model, progress=progress)
        precision = Precision(row.form, 64, row.form)
        found.append(
            (
                row,
                estimate_model(
                    name, config, precision, row.context, host, question, jobs=jobs, progress=progress
                ),
            )
        )
    return found


def estimate_bundle(bundle: Bundle, host: Host, question: Question) -> Estimate:
    """Estimate a compiled bundle, from its manifest alone: no compiler is needed.

    Raises:
        InputError: a bundle of another kind, or lengths that do not fit.
        BundleError: a damaged manifest.
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
        profiles = {
            StepShape(stage["tokens"], stage["history"]): Profile.from_dict(stage)
            for stage in bundle.details["stages"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.folder} does not say what its nets move over the memory bus ({error!r}): make it again"
        ) from error
    forecast = _simulate(nets, profiles, host, question, bundle.config)
    precision = str(Precision(**bundle.precision))
    return Estimate(bundle.model, precision, bundle.config.num_hidden_layers, forecast, {})


def _simulate(
    nets: StepNets,
    profiles: Mapping[StepShape, Profile],
    host: Host,
    question: Question,
    config: ModelConfig,
) -> Forecast:
    return simulate(
        nets,
        profiles,
        host,
        prompt_tokens=question.prompt_tokens,
        new_tokens=question.answer_in(nets.context),
        history=question.history,
        # Keys and values in half precision.
        row_bytes=2 * 2 * config.kv_size * config.num_hidden_layers,
    )
