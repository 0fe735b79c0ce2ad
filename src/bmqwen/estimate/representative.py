"""The nets that `compile` would make of a model, timed without its weights: equal layers are compiled once."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.plan import Plan, sizes
from bmqwen.compiler.profile import Profile
from bmqwen.compiler.schedule import NetClock, parallel_jobs, run_nets
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe
from bmqwen.estimate.net_store import Net, NetStore, NetTiming
from bmqwen.estimate.random_weights import RandomBlocks
from bmqwen.util.progress import Progress
from bmqwen.util.storage import require_free

# Before a net has been measured: weights that a compilation takes in a second.
BYTES_A_SECOND = 40e6


@dataclass(frozen=True, slots=True)
class TimedNet:
    """A net of the whole model.

    Attributes:
        profile: of all layers, extended from nets of one and of two.
        one_layer: the timeline of the net with a single layer and the head.
    """

    profile: Profile
    one_layer: NetTiming


def time_nets(
    plan: Plan, *, toolchain: Toolchain | None = None, jobs: int | None = None, progress: Progress
) -> Mapping[StepShape, TimedNet]:
    """Time every net of a plan, compiled with random weights.

    All inner layers of a net cost the same, to the cycle: two nets, of one and of two layers, tell what a layer costs
    and what the rest does. What is finished stays in the cache, also of an interrupted run.

    Raises:
        InputError: this machine has not enough memory.
        MissingDependencyError: no compiler, or this machine cannot run it.
        CompileError: the compiler failed.
        StorageError: not enough room.
    """
    small = {n: _cut(plan, n) for n in (1, 2) if n <= plan.config.num_hidden_layers}
    nets = {
        shape: {n: Net(cut.text(shape), Recipe(plan.mode), cut.addresses(shape)) for n, cut in small.items()}
        for shape in plan.shapes
    }
    toolchain = toolchain or open_toolchain(report=progress.note)
    largest = small[max(small)]
    store = NetStore(
        toolchain, "".join(net.text for pair in nets.values() for net in pair.values()), progress.note
    )

    def timed(shape: StepShape, cancelled: threading.Event) -> TimedNet:
        made = {
            n: store.compile(f"{shape.tokens}-{shape.history}-{n}", net, cancelled)
            for n, net in nets[shape].items()
        }
        return _whole(made, plan.config.num_hidden_layers)

    def known(shape: StepShape) -> TimedNet | None:
        found = {n: timing for n, net in nets[shape].items() if (timing := store.find(net)) is not None}
        return _whole(found, plan.config.num_hidden_layers) if len(found) == len(small) else None

    results = {shape: net for shape in plan.shapes if (net := known(shape)) is not None}
    missing = [shape for shape in plan.shapes if shape not in results]
    if not missing:
        return results
    jobs = parallel_jobs(largest.size.compiler, len(missing), jobs)
    require_free(store.folder, largest.size.scratch(jobs), "timing the nets")
    clock = NetClock(len(missing), jobs, 2 * (largest.size.chip.weights / BYTES_A_SECOND + 2), progress)
    with store.working(lambda path: largest.write_weights(path, RandomBlocks(largest.config))):
        results |= run_nets(missing, timed, clock)
    return {shape: results[shape] for shape in plan.shapes}


def _cut(plan: Plan, layers: int) -> Plan:
    """The same plan for a model of fewer layers."""
    config = replace(plan.config, num_hidden_layers=layers)
    return replace(plan, config=config, size=sizes(config, plan.precision, plan.context, plan.shapes))


def _whole(nets: Mapping[int, NetTiming], layers: int) -> TimedNet:
    one = nets[1]
    return TimedNet(one.profile.extended(nets[2].profile, layers) if 2 in nets else one.profile, one)
