"""Is a compiled model right? Its nets on the simulator, compared with the float result of the same weights."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.emit.numpy import WatchedOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.model.config import ModelConfig
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision
from bmqwen.runtime.bmodel.device_state import committed_tokens
from bmqwen.runtime.bmodel.step_runtime import StageResult, StepRuntime
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.util.float16 import MOST_F16
from bmqwen.util.text import counted
from bmqwen.weights.checkpoint import Checkpoint
from bmqwen.weights.weights import Weights

# Least cosine to pass: of logits, of every layer's new rows of K and of V, and of every layer's states after the step.
# BF16 has three bits less than F16, which makes the angle about eight times as large.
THRESHOLDS = {"f16": 0.9999, "bf16": 0.999}
# What the simulator does in a second, about, on two cores: weights of a net that it reads, and products beyond one of
# each. A net of 1, 32, 64, 128 tokens with 165 million weights took 22, 22, 34, 52 seconds.
WEIGHTS_PER_SECOND = 8e6
PRODUCTS_PER_SECOND = 1.2e8
TEXT = (
    "The quick brown fox jumps over the lazy dog. 今天天气很好，我们去公园散步。 def area(r): return 3.14159 * r ** 2\n"
    "In 1969 two people walked on the moon for the first time. 请用一句话介绍你自己。 for i in range(10): print(i)\n"
)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Similarity:
    """How close a net's results are to a reference: cosines, the largest absolute differences, the likeliest tokens.

    The cosine of logits is the least of any row, that of the new K/V rows the least of any layer's keys or values, that
    of the states the least of any layer's convolution or delta rule; None of a model without states.
    """

    logits_cosine: float
    logits_error: float
    cache_cosine: float
    cache_error: float
    same_token: bool
    state_cosine: float | None = None
    state_error: float | None = None

    @property
    def cosine(self) -> float:
        """The smallest of all."""
        states = () if self.state_cosine is None else (self.state_cosine,)
        return min(self.logits_cosine, self.cache_cosine, *states)


@dataclass(frozen=True, slots=True)
class NetReport:
    """How one net did after so many cached rows, in so many seconds of simulation.

    Attributes:
        to_float: against the checkpoint in float32.
        to_grid: against the float result of the same grid; None where nothing is quantised.
        passed: the one that counts reaches the threshold.
        committed: how many of its tokens the states have seen after the step; None of a model without states.
    """

    tokens: int
    history: int
    cached: int
    to_float: Similarity
    to_grid: Similarity | None
    passed: bool
    seconds: float
    committed: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All runs of nets, of `nets` that there are: one each, and of those with states one for each end of a step.

    Attributes:
        half: what they compute in.
        largest_activation: greatest absolute value of a product or sum in float32, over the text of the comparison.
    """

    model: str
    precision: str
    half: str
    largest_activation: float
    threshold: float
    nets: int
    stages: tuple[NetReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every net did."""
        return all(stage.passed for stage in self.stages)

    @property
    def nets_run(self) -> int:
        """How many nets were looked at."""
        return len({(stage.tokens, stage.history) for stage in self.stages})

    @property
    def overflows(self) -> bool:
        """Whether there are values that half precision cannot hold."""
        return self.half == "f16" and not self.largest_activation <= MOST_F16

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"passed": self.passed, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Reference:
    """What some weights compute for the whole text: cache rows, logits and states by number of tokens, the largest
    activation.
    """

    cache: NDArray[np.float32]
    logits: dict[int, NDArray[np.float32]]
    states: dict[int, dict[str, NDArray[np.float32]]]
    largest: float


def verify(
    bundle: Bundle,
    checkpoint: Checkpoint,
    runtime: StepRuntime | SimulatedRuntime,
    shapes: Sequence[StepShape],
    *,
    tokens: int = 64,
    report: Report = lambda _: None,
) -> VerifyReport:
    """Run nets on the simulator (or a chip) and compare logits, new K/V rows and states with what they should be.

    Each net gets a cache of at most so many tokens, and the states after them, which the reference computed, so that an
    error of one does not show in another. A net with states runs once for each end of a step that the runtime knows:
    after all of its tokens, and as a prompt's last step, which leaves some out. The checkpoint is what the bundle was
    compiled from. `report` is told in a line what is being done.
    Raises CheckpointError, DeviceError.
    """
    nets = StepNets.from_dict(bundle.details, str(bundle.folder))
    threshold = THRESHOLDS[nets.half]
    precision = Precision(**bundle.precision)
    cached = {shape: cached_rows(shape, nets.context, tokens) for shape in shapes}
    # Where a result is wanted: after the last token, or after each.
    ends = sorted({end for shape in shapes for end in _results(shape, cached[shape])})
    runs = _runs(bundle.config, shapes)
    stops = sorted(
        {cached[shape] + seen for shape, count in runs if count is not None for seen in (0, count)}
    )
    text = list(islice(cycle(Tokenizer.from_folder(bundle.folder).encode(TEXT)), ends[-1]))
    report(f"computing {ends[-1]} tokens in float32")
    floats = _reference(checkpoint.weights, bundle.config, text, ends, stops)
    grid = None
    if precision.quantised:
        report(f"computing them with the weights of {precision}")
        weights = GridWeights(checkpoint.weights, bundle.config, precision)
        grid = _reference(weights, weights.config, text, ends, stops)
    truth = grid or floats
    stages = []
    for number, (shape, committed) in enumerate(runs, 1):
        seconds = _seconds(bundle.config, [shape])
        kept = "" if committed is None else f", {committed} committed"
        report(f"run {number} of {len(runs)}, {shape}{kept}: about {duration(seconds)}")
        start, position = time.perf_counter(), cached[shape]
        end = position + shape.tokens
        wanted = _results(shape, position)
        states = None if committed is None else truth.states[position]
        result = runtime.run_stage(shape, text[position:end], truth.cache[:, :position], states, committed)
        to_grid = None if grid is None else _compare(result, grid, position, wanted, committed)
        to_float = _compare(result, floats, position, wanted, committed)
        passed = (to_grid or to_float).cosine >= threshold
        spent = time.perf_counter() - start
        stages.append(
            NetReport(shape.tokens, shape.history, position, to_float, to_grid, passed, spent, committed)
        )
    return VerifyReport(
        bundle.model,
        str(precision),
        nets.half,
        float(np.nan_to_num(truth.largest)),
        threshold,
        len(nets.cycles),
        tuple(stages),
    )


def cached_rows(shape: StepShape, context: int, most: int) -> int:
    """Return how many cached rows to run a net after: `most`, as far as its history lets it.

    New rows that would overlap what the net reads must lie right behind it: then it is the whole history.
    """
    room = shape.history - shape.tokens
    if room < min(most, shape.history) and shape.history + shape.tokens <= context:
        return shape.history
    # Positions end with the context, also where several sequences share a longer history.
    return max(0, min(most, room, context - shape.tokens))


def choose_nets(bundle: Bundle, wanted: str | None) -> list[StepShape]:
    """Return the nets that a user's list names: "1,8x512" is those of 1 token and that of 8 after 512. None: all.

    Raises InputError: no such net.
    """
    nets = StepNets.from_dict(bundle.details, str(bundle.folder))
    # One that copies rows computes nothing that could be compared.
    shapes = sorted(shape for shape in nets.cycles if shape.rows)
    if wanted is None:
        return shapes
    chosen: list[StepShape] = []
    for part in wanted.split(","):
        tokens, _, history = part.strip().partition("x")
        found = [s for s in shapes if str(s.tokens) == tokens and history in ("", str(s.history))]
        if not found:
            names = ", ".join(f"{s.tokens}x{s.history}" for s in shapes)
            raise InputError(f"the bundle has no net {part.strip()[:40]!r}: it has {names}")
        chosen += [shape for shape in found if shape not in chosen]
    return chosen


def estimate_seconds(config: ModelConfig, shapes: Sequence[StepShape]) -> float:
    """Return the seconds that the simulator takes for all runs of each net, within a factor of two or three."""
    return _seconds(config, [shape for shape, _ in _runs(config, shapes)])


def _seconds(config: ModelConfig, runs: Sequence[StepShape]) -> float:
    head = config.vocab_size * config.hidden_size
    weights = config.network.shapes().items()
    body = sum(math.prod(shape) for name, shape in weights if len(shape) == 2 and ".layers." in name)
    attention = 2 * len(config.kv_layers) * config.q_size
    products = sum(s.tokens * (body + attention * (s.history + s.tokens)) + s.rows * head for s in runs)
    return products / PRODUCTS_PER_SECOND + len(runs) * (1 + (body + head) / WEIGHTS_PER_SECOND)


def duration(seconds: float) -> str:
    """Return a length of time in words."""
    if seconds < 90:
        return counted(round(seconds), "second")
    return counted(round(seconds / 60), "minute") if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _runs(config: ModelConfig, shapes: Sequence[StepShape]) -> list[tuple[StepShape, int | None]]:
    """Return the nets with how many of its tokens the states are to have seen after a run: one run for each number."""
    if not config.state_layers:
        return [(shape, None) for shape in shapes]
    return [
        (shape, committed)
        for shape in shapes
        for committed in dict.fromkeys(
            committed_tokens(shape.tokens, ends_prompt=ends) for ends in (False, True)
        )
    ]


def _reference(
    weights: Weights, config: ModelConfig, text: Sequence[int], ends: Sequence[int], stops: Sequence[int]
) -> _Reference:
    ops = WatchedOps(config, WeightBlocks(weights), text, [end - 1 for end in ends], stops=stops)
    logits = config.network.emit(ops)
    return _Reference(np.stack(ops.cache), dict(zip(ends, logits, strict=True)), ops.states, ops.largest)


def _results(shape: StepShape, cached: int) -> range:
    """Return after how many tokens the results come that a net of that shape is looked at by."""
    end = cached + shape.tokens
    return range(end - shape.tokens + 1 if shape.rows == shape.tokens else end, end + 1)


def _compare(
    result: StageResult,
    reference: _Reference,
    start: int,
    wanted: Sequence[int],
    committed: int | None,
) -> Similarity:
    states = {} if committed is None else reference.states[start + committed]
    pairs = [(result.states[name], state) for name, state in states.items()]
    logits = np.stack([reference.logits[end] for end in wanted])
    rows = reference.cache[:, start : wanted[-1]]
    return Similarity(
        min(_cosine(got, want) for got, want in zip(result.logits, logits, strict=True)),
        _error(result.logits, logits),
        min(_cosine(got, want) for got, want in zip(result.rows, rows, strict=True)),
        _error(result.rows, rows),
        result.token_ids == logits.argmax(axis=1).tolist(),
        min((_cosine(got, want) for got, want in pairs), default=None),
        max((_error(got, want) for got, want in pairs), default=None),
    )


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of two arrays; 0 where the first holds what is no number. Of what should be zeros: 1 if it is."""
    if not np.isfinite(a).all():
        return 0.0
    if not b.any():
        return float(not a.any())
    x, y = (v.astype(np.float64).ravel() for v in (a, b))
    return float(x @ y) / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-300)


def _error(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest difference; the largest float32 where the first holds what is no number, which JSON cannot."""
    return float(np.nan_to_num(np.abs(a - b).max(), nan=float(np.finfo(np.float32).max)))
