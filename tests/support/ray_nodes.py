"""A Ray cluster of several node processes on this machine: `python -m support.ray_nodes`, which prints its address.

The head has no engines, only the resource "front". A line on stdin is done and answered by "done": "kill" ends the
newest other node as a power cut would, "add" begins one.
"""

import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 100 << 20


def main(nodes: int) -> None:
    """Run until stdin is closed."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "resources": {"front": 2},
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        },
    )
    added = [cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES) for _ in range(nodes)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(added.pop(), allow_graceful=False)
        else:
            added.append(cluster.add_node(num_cpus=4, object_store_memory=STORE_BYTES))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
