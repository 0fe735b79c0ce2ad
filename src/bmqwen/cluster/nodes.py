"""Asks the nodes of a Ray cluster what they have."""

import shutil
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bmqwen.cluster.readiness import NodeReport
from bmqwen.errors import DeviceError

ANSWER_SECONDS = 120.0


def look_at_nodes() -> list[NodeReport]:
    """Ask all nodes of the cluster that this process is in. Raises DeviceError for one that does not answer."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        _tell.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    ]
    reports = []
    for node, told in zip(nodes, asked, strict=True):
        address = node["NodeManagerAddress"]
        try:
            found = ray.get(told, timeout=ANSWER_SECONDS)
        except GetTimeoutError as error:
            raise DeviceError(f"node {address} does not answer within {ANSWER_SECONDS:g} seconds") from error
        except RayError as error:
            raise DeviceError(f"node {address} cannot be queried: {str(error).splitlines()[-1]}") from error
        reports.append(NodeReport(address, dict(node["Resources"]), **found))
    return reports


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _tell() -> dict[str, Any]:
    # It runs on nodes that may not have bmqwen, or another version.
    try:
        from bmqwen.chip.machine import look
        from bmqwen.chip.system import System
        from bmqwen.util.paths import cache_folder
        from bmqwen.util.storage import existing_above
        from bmqwen.version import __version__ as version
    except ImportError:
        return {}
    cache = cache_folder(".")
    return {
        "version": version,
        "chips": len(look(System()).working),
        "cache": str(cache),
        "free_bytes": shutil.disk_usage(existing_above(cache)).free,
    }
