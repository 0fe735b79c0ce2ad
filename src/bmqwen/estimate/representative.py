"""The nets that `compile` would make of a model, timed without its weights: equal layers are compiled once."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.plan import Plan, sizes
from bmqwen.compiler.schedule import NetClock, parallel_jobs, run_nets
from bmqwen.compiler.timing import Profile
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.estimate.net_store import Net, NetStore, NetTiming
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import GridFormat
from bmqwen.util.progress import Progress
from bmqwen.util.storage import require_free
from bmqwen.weights.weights import Grid

# Before a net has been measured: weights that a compilation takes in a second.
BYTES_A_SECOND = 40e6
# Random numbers, repeated as often as a tensor needs them.
_NOISE = 1 << 20


def time_nets(
    plan: Plan, *, toolchain: Toolchain | None = None, jobs: int | None = None, progress: Progress
) -> Mapping[StepShape, NetTiming]:
    """Time every net of a plan, compiled with random weights: the profile of all layers, the timeline of one.

    All inner layers of a net cost the same, to the cycle: two nets, of one and of two layers, tell what a layer costs
    and what the rest does. Where layers of two kinds take turns, it is a round of them in place of one. What is
    finished stays in the cache, also of an interrupted run.

    Raises InputError (not enough memory), MissingDependencyError (no compiler), CompileError, StorageError.
    """
    one = _round(plan.config)
    small = {n: _cut(plan, n) for n in (one, 2 * one) if n <= plan.config.num_hidden_layers}
    nets = {
        shape: {
            n: Net(cut.text(shape), Recipe(plan.mode, chip=plan.chip), cut.addresses(shape))
            for n, cut in small.items()
        }
        for shape in plan.shapes
    }
    toolchain = toolchain or open_toolchain(report=progress.note)
    largest = small[max(small)]
    key = "".join(net.text for pair in nets.values() for net in pair.values())
    store = NetStore(toolchain, key, progress.note)

    def timed(shape: StepShape, cancelled: threading.Event) -> Mapping[int, NetTiming]:
        name = f"{shape.tokens}-{shape.history}-{shape.rows}"
        return {n: store.compile(f"{name}-{n}", net, cancelled) for n, net in nets[shape].items()}

    found: dict[StepShape, Mapping[int, NetTiming]] = {
        shape: {n: timing for n, net in pair.items() if (timing := store.find(net)) is not None}
        for shape, pair in nets.items()
    }
    if missing := [shape for shape, pair in found.items() if len(pair) < len(small)]:
        jobs = parallel_jobs(largest.size.compiler, len(missing), jobs)
        require_free(store.folder, largest.size.scratch(jobs), "timing the nets")
        clock = NetClock(len(missing), jobs, 2 * (largest.size.chip.weights / BYTES_A_SECOND + 2), progress)
        with store.working(lambda path: largest.write_weights(path, RandomBlocks(largest.config))):
            found |= run_nets(missing, timed, clock)
    rounds = plan.config.num_hidden_layers // one
    # The timeline is that of one layer, or round of layers.
    return {
        shape: replace(made[one], profile=made[one].profile.extended(made[max(made)].profile, rounds))
        for shape, made in found.items()
    }


def time_parts(
    plan: Plan, *, toolchain: Toolchain | None = None, jobs: int | None = None, progress: Progress
) -> list[Mapping[StepShape, Profile]]:
    """Return the profiles of a plan's nets for each part: as many layers, the last part with the head.

    The nets are those that `time_nets` compiles; rows that are handed over are not in them. Raises as that does.
    """
    found: list[Mapping[StepShape, Profile]] = []
    for part in plan.parts:
        cut = _cut(plan, part.num_hidden_layers)
        timed = time_nets(cut, toolchain=toolchain, jobs=jobs, progress=progress)
        found.append(
            {
                shape: net.profile if part.is_last else net.profile.without("lm_head")
                for shape, net in timed.items()
            }
        )
    return found


def _round(config: ModelConfig) -> int:
    """Return after how many layers their kinds begin again; all layers, if they do not."""
    kinds = config.layer_types
    lengths = (
        n for n in range(1, len(kinds)) if len(kinds) % n == 0 and kinds == kinds[:n] * (len(kinds) // n)
    )
    return next(lengths, len(kinds)) if config.state_layers else 1


def _cut(plan: Plan, layers: int) -> Plan:
    """The same plan for a model of fewer layers."""
    config = replace(plan.config, num_hidden_layers=layers)
    return replace(plan, config=config, size=sizes(config, plan.precision, plan.context))


class RandomWeights:
    """A `bmqwen.weights.weights.Weights` of a configuration, small numbers that repeat."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = config.network.shapes()
        self._noise = np.random.default_rng(1).standard_normal(_NOISE, dtype=np.float32) / 64

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._shapes[name]

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor."""
        return np.resize(self._noise, self._shapes[name])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of a matrix."""
        return np.resize(self._noise, (stop - start, self._shapes[name][1]))


class RandomBlocks(WeightBlocks):
    """Random weights on their way into a file; those on a grid are made there, without the search for good ranges."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(RandomWeights(config))
        self._codes = np.random.default_rng(2).integers(0, 256, _NOISE, np.uint8)

    def grids(self, names: Sequence[str], form: GridFormat) -> Iterator[Grid]:
        """Yield blocks of the stacked matrices on a grid of random codes."""
        for name, start, stop in self._ranges(names):
            columns = self.weights.shape(name)[1]
            bits, group_size = form.bits, form.group(columns)
            shape = (stop - start, columns // group_size)
            codes = np.resize(self._codes, (shape[0], columns)) & np.uint8((1 << bits) - 1)
            scales, zeros = np.full(shape, 2.0**-9, np.float32), np.full(shape, 1 << bits - 1, np.uint8)
            yield Grid(codes, scales, zeros, bits, group_size)
