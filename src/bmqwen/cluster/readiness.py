"""Whether nodes can run a fleet, before anything is started on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bmqwen.cluster.config import FleetConfig
from bmqwen.errors import DeviceError, InputError, StorageError
from bmqwen.version import __version__

# Less is no room for any model.
LEAST_FREE = 1 << 30


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node, as Ray and the node itself tell.

    Attributes:
        resources: that its Ray was started with.
        version: of bmqwen; "" where there is none.
        chips: working ones, as its driver tells.
        free_bytes: of the disk with the cache.
    """

    address: str
    resources: dict[str, float]
    version: str = ""
    chips: int = 0
    cache: str = ""
    free_bytes: int = 0


def require_ready(config: FleetConfig, nodes: Sequence[NodeReport]) -> None:
    """Find out whether a fleet fits on nodes.

    Raises:
        InputError: a node has no bmqwen or another version, or there are too few chips or cores.
        DeviceError: a node has fewer working chips than its Ray was told.
        StorageError: a node's cache is full.
    """
    for problem in problems_of(config, nodes):
        raise problem


def problems_of(
    config: FleetConfig, nodes: Sequence[NodeReport]
) -> Iterator[InputError | DeviceError | StorageError]:
    """Yield what is wrong; `require_ready` raises the first of it."""
    for node in nodes:
        if not node.version:
            yield InputError(
                f"node {node.address} has no bmqwen: install bmqwen {__version__} with the extra cluster there"
            )
        elif node.version != __version__:
            yield InputError(
                f"node {node.address} has bmqwen {node.version}, but here it is {__version__}: install the same "
                "version on all nodes"
            )
        elif node.free_bytes < LEAST_FREE:
            yield StorageError(
                f"node {node.address} has {node.free_bytes / 1e9:.1f} GB free in {node.cache}, too little for any "
                "model: free some space or choose a larger disk (BMQWEN_CACHE names the cache)"
            )
    yield from _chip_problems(config, nodes)
    largest = max((node.resources.get("CPU", 0) for node in nodes), default=0)
    for model in config.models:
        if not model.chip and model.threads > largest:
            yield InputError(
                f"{model.deployment} is to have {model.threads} threads, but the largest node has {largest:g} cores: "
                "give it fewer threads"
            )


def _chip_problems(config: FleetConfig, nodes: Sequence[NodeReport]) -> Iterator[InputError | DeviceError]:
    for chip in sorted({model.chip for model in config.models if model.chip}):
        models = [model for model in config.models if model.chip == chip]
        wanted = sum(model.fewest * model.chips for model in models)
        there = sum(node.resources.get(chip, 0) for node in nodes)
        if wanted > there:
            yield InputError(
                f"the fleet wants {wanted} of the chip {chip}, but the nodes have {there:g}: start Ray on each node "
                f"with chips with --resources '{{\"{chip}\": N}}', or ask for fewer replicas"
            )
        largest = max((node.resources.get(chip, 0) for node in nodes), default=0)
        for model in models:
            if largest < model.chips <= there:
                yield InputError(
                    f"each replica of {model.deployment} takes {model.chips} of the chip {chip} on one node, but no "
                    f"node has more than {largest:g}: compile the model in fewer parts"
                )
        if any(model.engine in ("auto", "tpu") for model in models):
            for node in nodes:
                if node.version and node.chips < (told := node.resources.get(chip, 0)):
                    yield DeviceError(
                        f"node {node.address} was started with {told:g} of the chip {chip}, but has {node.chips} "
                        "that work: see what `bmqwen doctor` says there"
                    )
